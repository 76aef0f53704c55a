//! Object annotations: one XML file per image with the outlines of the things in it.
//!
//! The files have no root element: `<filename>`, `<folder>`, `<class>` (the scene), then an `<objects>` element per
//! object with its `<class>` and one `<polygon>` of `<pt><x/><y/></pt>`. Elements that carry nothing more, such as
//! `<bndbox>`, are passed over. Classes are 0-based indices into `object_categories.txt`; coordinates are 1-based pixels.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::error::{Error, Result};

/// What one annotation file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotation {
    /// Name of the image in the collection it came from; not that of the file beside it.
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
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        Parser::default().parse(&text).map_err(|(offset, message)| {
            let line = 1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count();
            Error::data(path, format!("line {line}: {message}"))
        })
    }
}

/// A byte offset into the file and what is wrong there.
type Fault = (usize, String);

/// The parts of an annotation read so far.
#[derive(Default)]
struct Parser {
    filename: Option<String>,
    folder: Option<String>,
    scene: Option<u32>,
    objects: Vec<Object>,
    class: Option<u32>,
    polygon: Vec<(f32, f32)>,
    x: Option<f32>,
    y: Option<f32>,
}

impl Parser {
    fn parse(mut self, text: &str) -> std::result::Result<Annotation, Fault> {
        let mut reader = Reader::from_str(text);
        let mut open: Vec<String> = Vec::new();
        let mut content = String::new();
        loop {
            let offset = reader.buffer_position() as usize;
            let at = |message: String| (offset, message);
            match reader.read_event().map_err(|error| at(error.to_string()))? {
                Event::Start(tag) => {
                    open.push(tag.name().as_ref().to_string());
                    content.clear();
                }
                Event::Text(text) => content.push_str(&text.xml10_content()),
                Event::GeneralRef(entity) => {
                    content.push_str(&resolve(&entity).ok_or_else(|| at("unknown entity".into()))?);
                }
                Event::End(_) => {
                    let path: Vec<&str> = open.iter().map(String::as_str).collect();
                    self.close(&path, content.trim()).map_err(at)?;
                    open.pop();
                    content.clear();
                }
                Event::Eof if open.is_empty() => return self.finish().map_err(at),
                Event::Eof => return Err(at(format!("the file ends inside <{}>", open.join("><")))),
                _ => {}
            }
        }
    }

    /// Takes in the element at `path` (outermost first) whose text is `content`.
    fn close(&mut self, path: &[&str], content: &str) -> std::result::Result<(), String> {
        match path {
            ["filename"] => self.filename = Some(content.to_string()),
            ["folder"] => self.folder = Some(content.to_string()),
            ["class"] => self.scene = Some(number("class", content)?),
            ["objects", "class"] => self.class = Some(number("class", content)?),
            ["objects", "polygon", "pt", "x"] => self.x = Some(number("x", content)?),
            ["objects", "polygon", "pt", "y"] => self.y = Some(number("y", content)?),
            ["objects", "polygon", "pt"] => {
                let (x, y) =
                    (self.x.take().ok_or("<pt> without <x>")?, self.y.take().ok_or("<pt> without <y>")?);
                self.polygon.push((x, y));
            }
            ["objects"] => {
                let class = self.class.take().ok_or("<objects> without <class>")?;
                let polygon = std::mem::take(&mut self.polygon);
                if polygon.len() < 3 {
                    return Err(format!("a <polygon> of {} points encloses nothing", polygon.len()));
                }
                self.objects.push(Object { class, polygon });
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

fn number<T: FromStr>(element: &str, content: &str) -> std::result::Result<T, String> {
    content.parse().map_err(|_| format!("<{element}> must be a number, got `{content}`"))
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
        assert_eq!(annotation.objects, [Object { class: 169, polygon }]);
    }

    #[test]
    fn faults_say_what_is_wrong() {
        let fault = |from: &str, to: &str| parse(&SMALL.replace(from, to)).unwrap_err().1;
        assert_eq!(fault("<x>128</x>", "<x>wide</x>"), "<x> must be a number, got `wide`");
        assert_eq!(fault("<x>128</x>", ""), "<pt> without <x>");
        assert_eq!(fault("<class>169</class>", ""), "<objects> without <class>");
        assert_eq!(fault("<pt><x>5</x><y>6</y></pt>", ""), "a <polygon> of 2 points encloses nothing");
        assert_eq!(fault("<folder>/a/abbey</folder>", ""), "no <folder>");
        assert!(fault("</objects>", "</object>").contains("object"));
        assert!(parse(&SMALL[..SMALL.len() - 11]).unwrap_err().1.contains("ends inside <objects>"));
    }
}
