//! Object annotations: one XML file per image with the outlines of the things in it.
//!
//! The files have no root element: `<filename>`, `<folder>`, `<class>` (the scene), then an `<objects>` element per
//! object with its `<class>` and one `<polygon>` of `<pt><x/><y/></pt>`. Elements that carry nothing more, such as
//! `<bndbox>`, are passed over. Classes are 0-based indices into `object_categories.txt`; coordinates are 1-based pixels.
//! A polygon of one or two points is harmless: it is kept, and encloses nothing.

use std::path::Path;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::files::read_text;
use crate::error::{Error, Result};
use crate::show::show_text;

/// Longer files are no annotations: that of ten thousand objects has a twentieth of this.
const MAX_FILE_BYTES: usize = 64 << 20;

/// What one annotation file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotation {
    /// Name of the image in the collection it came from; not that of the file next to it.
    pub filename: String,
    /// Category folder, such as `/b/bakery/shop`.
    pub folder: String,
    /// Category of the scene.
    pub scene: u32,
    /// The annotated objects, in the order of the file.
    pub objects: Vec<Object>,
}

/// One annotated object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// 0-based index into `object_categories.txt`.
    pub class: u32,
    /// Line of the file that says so.
    pub line: usize,
    /// Corners of the outline as (x, y) in 1-based pixels; the last joins the first.
    pub polygon: Vec<(f32, f32)>,
}

impl Annotation {
    /// Reads the annotation file at `path`.
    ///
    /// # Errors
    /// [`Error::Data`] with the line if the file is not well-formed, an element is missing or a number is not one;
    /// [`Error::Io`] if it cannot be read.
    pub fn read(path: &Path) -> Result<Annotation> {
        let text = read_text(path, MAX_FILE_BYTES)?;
        Parser::default()
            .parse(&text)
            .map_err(|(line, message)| Error::data(path, format!("line {line}: {message}")))
    }

    /// What is wrong with each object whose class is not below `num_classes`, with its line.
    pub fn classes_out_of_range(&self, num_classes: usize) -> impl Iterator<Item = String> + '_ {
        let outside = self.objects.iter().filter(move |object| object.class as usize >= num_classes);
        outside.map(move |object| {
            let Object { line, class, .. } = object;
            let last = num_classes.saturating_sub(1);
            format!(
                "line {line}: object class {class} is out of range; object_categories.txt numbers 0 to {last}"
            )
        })
    }
}

/// A line of the file and what is wrong there.
type Fault = (usize, String);

/// The parts of an annotation read so far.
#[derive(Default)]
struct Parser {
    filename: Option<String>,
    folder: Option<String>,
    scene: Option<u32>,
    objects: Vec<Object>,
    class: Option<(u32, usize)>,
    polygon: Vec<(f32, f32)>,
    x: Option<f32>,
    y: Option<f32>,
}

impl Parser {
    fn parse(mut self, text: &str) -> std::result::Result<Annotation, Fault> {
        let mut reader = Reader::from_str(text);
        // The open elements, outermost first: `objects/polygon/pt`.
        let mut path = String::new();
        let mut content = String::new();
        let (mut line, mut counted) = (1, 0);
        loop {
            let offset = reader.buffer_position() as usize;
            line += newlines(&text.as_bytes()[counted..offset]);
            counted = offset;
            let at = |message: String| (line, message);
            match reader.read_event().map_err(|error| at(show_text(&error.to_string())))? {
                Event::Start(tag) => {
                    if !path.is_empty() {
                        path.push('/');
                    }
                    path.push_str(tag.name().as_ref());
                    content.clear();
                }
                Event::Text(text) => content.push_str(&text.xml10_content()),
                Event::GeneralRef(entity) => {
                    content.push_str(&resolve(&entity).ok_or_else(|| at("unknown entity".into()))?);
                }
                Event::End(_) => {
                    self.close(&path, content.trim(), line).map_err(at)?;
                    path.truncate(path.rfind('/').unwrap_or(0));
                    content.clear();
                }
                Event::Eof if path.is_empty() => return self.finish().map_err(at),
                Event::Eof => {
                    return Err(at(format!(
                        "the file ends inside <{}>",
                        show_text(&path.replace('/', "><"))
                    )));
                }
                _ => {}
            }
        }
    }

    /// Takes in the element at `path`, which ends in `line` and whose text is `content`.
    fn close(&mut self, path: &str, content: &str, line: usize) -> std::result::Result<(), String> {
        match path {
            "filename" => self.filename = Some(content.to_string()),
            "folder" => self.folder = Some(content.to_string()),
            "class" => self.scene = Some(index("class", content)?),
            "objects/class" => self.class = Some((index("class", content)?, line)),
            "objects/polygon/pt/x" => self.x = Some(coordinate("x", content)?),
            "objects/polygon/pt/y" => self.y = Some(coordinate("y", content)?),
            "objects/polygon/pt" => {
                let (x, y) =
                    (self.x.take().ok_or("<pt> without <x>")?, self.y.take().ok_or("<pt> without <y>")?);
                self.polygon.push((x, y));
            }
            "objects" => {
                let (class, line) = self.class.take().ok_or("<objects> without <class>")?;
                let polygon = std::mem::take(&mut self.polygon);
                if polygon.is_empty() {
                    return Err("<objects> without a <polygon> of points (<pt><x/><y/></pt>)".into());
                }
                self.objects.push(Object { class, line, polygon });
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> std::result::Result<Annotation, String> {
        Ok(Annotation {
            filename: self.filename.ok_or("no <filename>")?,
            folder: self.folder.ok_or("no <folder>")?,
            scene: self.scene.ok_or("no <class> of the scene")?,
            objects: self.objects,
        })
    }
}

/// The text an entity such as `amp` or `#233` stands for.
fn resolve(entity: &quick_xml::events::BytesRef<'_>) -> Option<String> {
    if let Ok(Some(character)) = entity.resolve_char_ref() {
        return Some(character.into());
    }
    quick_xml::escape::resolve_predefined_entity(&entity.xml10_content()).map(str::to_string)
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

/// The whole number that `content` of `<element>` is.
fn index(element: &str, content: &str) -> std::result::Result<u32, String> {
    content
        .parse()
        .map_err(|_| format!("<{element}> must be a whole number from 0 on, got `{}`", show_text(content)))
}

/// The finite number that `content` of `<element>` is.
fn coordinate(element: &str, content: &str) -> std::result::Result<f32, String> {
    let number = content.parse().ok().filter(|number: &f32| number.is_finite());
    number.ok_or_else(|| format!("<{element}> must be a number, got `{}`", show_text(content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "<filename>a&amp;b.jpg</filename>\n<folder>/a/abbey</folder>\n<class>3</class>\n<objects>\n<class>169</class>\n\
        <polygon><pt><x>1</x><y>2</y></pt><pt><x>128</x><y>4.5</y></pt><pt><x>5</x><y>6</y></pt></polygon>\n\
        <bndbox><xmin>1</xmin></bndbox>\n</objects>\n";

    fn parse(text: &str) -> std::result::Result<Annotation, Fault> {
        Parser::default().parse(text)
    }

    #[test]
    fn an_annotation_is_read_without_a_root_element() {
        let annotation = parse(SMALL).unwrap();
        assert_eq!((annotation.filename.as_str(), annotation.folder.as_str()), ("a&b.jpg", "/a/abbey"));
        assert_eq!(annotation.scene, 3);
        let polygon = vec![(1.0, 2.0), (128.0, 4.5), (5.0, 6.0)];
        assert_eq!(annotation.objects, [Object { class: 169, line: 5, polygon }]);
    }

    #[test]
    fn faults_say_what_is_wrong_and_where() {
        let fault = |from: &str, to: &str| parse(&SMALL.replace(from, to)).unwrap_err();
        let says = |line, message: &str| (line, message.to_string());
        assert_eq!(fault("<x>128</x>", "<x>wide</x>"), says(6, "<x> must be a number, got `wide`"));
        assert_eq!(fault("<x>128</x>", "<x>NaN</x>"), says(6, "<x> must be a number, got `NaN`"));
        assert_eq!(fault("<x>128</x>", "<x></x>"), says(6, "<x> must be a number, got ``"));
        assert_eq!(fault("<x>128</x>", ""), says(6, "<pt> without <x>"));
        assert_eq!(fault("<class>169</class>", ""), says(8, "<objects> without <class>"));
        assert_eq!(
            fault("<class>169</class>", "<class>-1</class>"),
            says(5, "<class> must be a whole number from 0 on, got `-1`")
        );
        assert_eq!(fault("<folder>/a/abbey</folder>", ""), says(9, "no <folder>"));
        let mismatch = fault("</objects>", "</object>");
        assert!(mismatch.0 == 8 && mismatch.1.contains("object"), "{mismatch:?}");
        let cut = parse(&SMALL[..SMALL.len() - 11]).unwrap_err();
        assert_eq!(cut, says(8, "the file ends inside <objects>"));
        let (points, _) = SMALL.split_once("<polygon>").unwrap();
        assert!(
            parse(&format!("{points}</objects>")).unwrap_err().1.contains("without a <polygon> of points")
        );
    }

    #[test]
    fn a_polygon_of_two_points_is_kept() {
        let annotation = parse(&SMALL.replace("<pt><x>5</x><y>6</y></pt>", "")).unwrap();
        assert_eq!(annotation.objects[0].polygon, [(1.0, 2.0), (128.0, 4.5)]);
    }

    #[test]
    fn a_file_without_objects_is_fine() {
        let (head, _) = SMALL.split_once("<objects>").unwrap();
        assert!(parse(head).unwrap().objects.is_empty());
    }

    #[test]
    fn ten_thousand_objects_are_read_each_with_its_line() {
        let (head, rest) = SMALL.split_once("<objects>").unwrap();
        let annotation = parse(&format!("{head}{}", format!("<objects>{rest}").repeat(10_000))).unwrap();
        assert_eq!(annotation.objects.len(), 10_000);
        assert!(annotation.objects.iter().enumerate().all(|(i, object)| object.line == 5 + 5 * i));
    }

    #[test]
    fn classes_out_of_range_are_named_with_line_and_range() {
        let annotation = parse(SMALL).unwrap();
        assert_eq!(annotation.classes_out_of_range(170).count(), 0);
        let faults: Vec<String> = annotation.classes_out_of_range(169).collect();
        assert_eq!(
            faults,
            ["line 5: object class 169 is out of range; object_categories.txt numbers 0 to 168"]
        );
    }
}
