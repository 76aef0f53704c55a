//! What kernels share with Rust, as their files declare it: argument structs, and whatever is marked `FOR_RUST`.
//!
//! This reads text, so a build needs no C++ compiler for it. It takes a small part of C++ on purpose: structs of numbers
//! of fixed size, pointers, arrays and structs of these, without padding, and whole numbers as constants. What it makes
//! of a struct, the host's C++ compiler confirms where there is one ([`Layout::assertions`]).

use std::path::PathBuf;

use crate::source::SourceText;

/// Most bytes of arguments that a launch takes.
const MAX_ARGS_BYTES: usize = 4096;

/// A struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struct {
    /// Its name, here and in Rust.
    pub name: String,
    /// Its template parameter, a number.
    pub parameter: Option<String>,
    /// The file that declares it.
    pub file: PathBuf,
    /// The comment above it.
    pub comment: String,
    /// Its data, in order.
    pub members: Vec<Member>,
}

/// One name in a declaration of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, here and in Rust.
    pub name: String,
    /// Type of an element.
    pub ty: Type,
    /// Extents of an array, outermost first.
    pub extents: Vec<Extent>,
    /// The comment above it or after it.
    pub comment: String,
    /// As C++ has it: `const float* x`.
    pub spelled: String,
}

/// Type of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// A number, by its type in Rust.
    Number {
        /// As in `u32`.
        rust: &'static str,
        /// Its size and alignment.
        num_bytes: usize,
    },
    /// An address on the device.
    Pointer,
    /// A struct, with its template argument.
    Struct(String, Option<usize>),
}

/// Extent of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// A number.
    Number(usize),
    /// The struct's template parameter.
    Parameter,
}

/// A constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constant {
    /// As in `kMaxTensors`.
    pub name: String,
    /// Its value.
    pub value: i64,
    /// Its type in Rust: `i32` for `int32_t`, `usize` for every other.
    pub rust: &'static str,
    /// The file that declares it.
    pub file: PathBuf,
    /// The comment above it.
    pub comment: String,
}

/// Where a struct's members lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The struct, as in `TensorTable<2>`.
    pub name: String,
    /// Size of the struct.
    pub num_bytes: usize,
    /// Alignment of the struct.
    pub align: usize,
    /// Members in order.
    pub members: Vec<Place>,
}

/// Where a member lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the member.
    pub name: String,
    /// From the start of the struct.
    pub offset_bytes: usize,
    /// Size of the member.
    pub num_bytes: usize,
    /// Whether it is an address on the device.
    pub is_pointer: bool,
}

/// All that a kernel file and its headers share with Rust.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    /// Argument structs, marked structs, and what they are made of, each after its parts.
    pub structs: Vec<Struct>,
    /// Every use of a struct that is an argument or a part of one.
    pub layouts: Vec<Layout>,
    /// Marked constants.
    pub constants: Vec<Constant>,
}

impl Declared {
    /// Reads what `sources`, a kernel file and its headers, declare of the argument structs `arguments` and mark.
    ///
    /// # Errors
    /// The file, the line, what is wrong there, and what to write instead.
    pub fn read(sources: &[SourceText], arguments: &[&str]) -> Result<Declared, String> {
        let mut declared = Declared::default();
        let mut marked = Vec::new();
        for source in sources {
            for at in source.marks() {
                match source.marked_constant(at)? {
                    Some(constant) => declared.constants.push(constant),
                    None => marked.push(source.marked_struct(at)?),
                }
            }
        }
        for name in arguments.iter().copied().chain(marked.iter().map(String::as_str)) {
            declared.add(sources, name, None, &format!("KERNEL takes `{name}`"))?;
        }
        for layout in &declared.layouts {
            let is_argument = arguments.contains(&layout.name.as_str());
            if is_argument && layout.num_bytes > MAX_ARGS_BYTES {
                return Err(format!(
                    "{}: `{}` has {} bytes; a kernel takes at most {MAX_ARGS_BYTES}",
                    sources[0].path.display(),
                    layout.name,
                    layout.num_bytes
                ));
            }
        }
        Ok(declared)
    }

    /// The layout of the struct called `name`.
    pub fn layout(&self, name: &str) -> Option<&Layout> {
        self.layouts.iter().find(|layout| layout.name == name)
    }

    fn add(
        &mut self,
        sources: &[SourceText],
        name: &str,
        argument: Option<usize>,
        why: &str,
    ) -> Result<(), String> {
        let full_name = argument.map_or(name.to_string(), |argument| format!("{name}<{argument}>"));
        if self.layout(&full_name).is_some() {
            return Ok(());
        }
        let found = sources.iter().find_map(|source| source.find_struct(name).map(|at| (source, at)));
        let Some((source, at)) = found else {
            let path = sources[0].path.display();
            return Err(format!(
                "{path}: {why}, but neither it nor its headers have a `struct {name} {{`; write one"
            ));
        };
        let parsed = source.parse_struct(name, at, &self.constants)?;
        for member in &parsed.members {
            if let Type::Struct(part, argument) = &member.ty {
                self.add(sources, part, *argument, &source.located(at, &format!("`{name}` holds `{part}`")))?;
            }
        }
        let layout = self.lay_out(&parsed, full_name, argument).map_err(|why| source.located(at, &why))?;
        self.layouts.push(layout);
        if self.structs.iter().all(|other| other.name != name) {
            self.structs.push(parsed);
        }
        Ok(())
    }

    fn lay_out(&self, parsed: &Struct, name: String, argument: Option<usize>) -> Result<Layout, String> {
        if parsed.parameter.is_some() != argument.is_some() {
            return Err(format!("`{name}` has another number of template parameters than is given"));
        }
        if parsed.parameter.is_some() && parsed.members.iter().any(|member| member.ty != parsed.members[0].ty)
        {
            return Err(format!("`{name}` is a template, whose members must be numbers of one type"));
        }
        let mut layout = Layout { name, num_bytes: 0, align: 1, members: Vec::new() };
        for member in &parsed.members {
            let (size, align) = match &member.ty {
                Type::Number { num_bytes, .. } => (*num_bytes, *num_bytes),
                Type::Pointer => (8, 8),
                Type::Struct(part, argument) => {
                    let full = argument.map_or(part.clone(), |argument| format!("{part}<{argument}>"));
                    let part = self.layout(&full).expect("parts are laid out first");
                    if part.members.iter().any(|place| place.is_pointer) {
                        return Err(format!(
                            "`{full}` holds a pointer; make it a member of `{}`, so that the emulator sees it",
                            parsed.name
                        ));
                    }
                    (part.num_bytes, part.align)
                }
            };
            let count: usize = member.extents.iter().map(|extent| extent.value(argument)).product();
            if !layout.num_bytes.is_multiple_of(align) {
                return Err(format!(
                    "`{}` leaves padding before `{}`; sort members by size, or fill up",
                    parsed.name, member.name
                ));
            }
            layout.members.push(Place {
                name: member.name.clone(),
                offset_bytes: layout.num_bytes,
                num_bytes: size * count,
                is_pointer: member.ty == Type::Pointer,
            });
            layout.num_bytes += size * count;
            layout.align = layout.align.max(align);
        }
        if !layout.num_bytes.is_multiple_of(layout.align) {
            return Err(format!(
                "`{}` ends in padding; add a member `reserved` that fills it up",
                parsed.name
            ));
        }
        Ok(layout)
    }
}

impl Extent {
    fn value(self, argument: Option<usize>) -> usize {
        match self {
            Extent::Number(number) => number,
            Extent::Parameter => argument.expect("a struct with a parameter is used with an argument"),
        }
    }
}

impl Layout {
    /// C++ that compiles if the compiler agrees.
    pub fn assertions(&self) -> String {
        let name = &self.name;
        let mut code = format!(
            "static_assert(sizeof({name}) == {}, \"build/declared.rs has another size of {name}\"); ",
            self.num_bytes
        );
        for Place { name: member, offset_bytes, .. } in &self.members {
            code.push_str(&format!(
                "static_assert(offsetof({name}, {member}) == {offset_bytes}, \"build/declared.rs has another place of {name}::{member}\"); "
            ));
        }
        code
    }
}

/// The parser.
impl SourceText {
    /// Where `FOR_RUST` stands before a declaration.
    fn marks(&self) -> impl Iterator<Item = usize> {
        self.words("FOR_RUST").filter(|&at| {
            let line = &self.code[self.code[..at].rfind('\n').map_or(0, |end| end + 1)..at];
            !line.trim_start().starts_with('#')
        })
    }

    /// The constant marked at `at`; none where a struct is.
    fn marked_constant(&self, at: usize) -> Result<Option<Constant>, String> {
        const FORM: &str = "write FOR_RUST constexpr type kName = number; or FOR_RUST struct Name {";
        let marked = self.code[at + "FOR_RUST".len()..].trim_start();
        if marked.starts_with("struct ") {
            return Ok(None);
        }
        let parsed = marked.split_once(';').and_then(|(declaration, _)| {
            let (left, value) = declaration.strip_prefix("constexpr ")?.split_once('=')?;
            let (ty, name) = left.trim().split_once(' ')?;
            let value = value.trim().parse::<i64>().ok()?;
            let is_constant = is_identifier(name) && name.starts_with('k') && name.len() > 1;
            let rust = if ty == "int32_t" { "i32" } else { "usize" };
            (is_constant && (value >= 0 || rust == "i32")).then_some((name.to_string(), value, rust))
        });
        let (name, value, rust) = parsed.ok_or_else(|| self.located(at, FORM))?;
        let comment = self.comment(at, at);
        if comment.is_empty() {
            return Err(self.located(at, &format!("say in a comment above it what `{name}` is")));
        }
        Ok(Some(Constant { name, value, rust, file: self.path.clone(), comment }))
    }

    fn marked_struct(&self, at: usize) -> Result<String, String> {
        let rest = self.code[at + "FOR_RUST".len()..].trim_start().trim_start_matches("struct").trim_start();
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if is_identifier(&name) { Ok(name) } else { Err(self.located(at, "give the struct a name")) }
    }

    /// The place of `struct name {`.
    fn find_struct(&self, name: &str) -> Option<usize> {
        self.words("struct").find(|&at| {
            let rest = self.code[at + "struct".len()..].trim_start();
            rest.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('{'))
        })
    }

    fn parse_struct(&self, name: &str, at: usize, constants: &[Constant]) -> Result<Struct, String> {
        let before = self.code[..at].trim_end();
        let parameter = before.strip_suffix('>').and_then(|before| {
            let (_, parameter) = before.rsplit_once("template <int ")?;
            is_identifier(parameter).then(|| parameter.to_string())
        });
        let start = match &parameter {
            Some(_) => before.rfind("template"),
            None => before.strip_suffix("FOR_RUST").map(str::len),
        };
        let start = start.unwrap_or(at);
        let mut members = Vec::new();
        let mut from = at + self.code[at..].find('{').expect("found with its brace") + 1;
        loop {
            let rest = &self.code[from..];
            let end = rest.find([';', '{', '}']).ok_or_else(|| self.located(at, "the struct has no end"))?;
            let statement_at = from + (rest.len() - rest.trim_start().len());
            match &rest[end..=end] {
                "}" => break,
                // A member function: after its body the next declaration begins.
                "{" => from = self.end_of_block(from + end).ok_or_else(|| self.located(at, "no end"))?,
                _ if rest[..end].contains('(') => from += end + 1,
                _ => {
                    let statement = rest[..end].trim();
                    let parsed = self.parse_members(statement, statement_at, parameter.as_deref(), constants);
                    members.extend(parsed.map_err(|why| self.located(statement_at, &why))?);
                    from += end + 1;
                }
            }
        }
        if members.is_empty() {
            return Err(self.located(at, &format!("`{name}` has no members")));
        }
        let comment = self.comment(start, start);
        Ok(Struct { name: name.to_string(), parameter, file: self.path.clone(), comment, members })
    }

    /// The members of `const float* x` or `uint32_t rows, extents[2]`.
    fn parse_members(
        &self,
        statement: &str,
        at: usize,
        parameter: Option<&str>,
        constants: &[Constant],
    ) -> Result<Vec<Member>, String> {
        let comment = self.comment(at, at + statement.len());
        if let Some((ty, name)) = statement.rsplit_once('*') {
            let name = name.trim();
            if !is_identifier(name) || ty.contains(['*', ',']) {
                return Err(format!("`{statement}`: declare each pointer alone, as in `const float* x;`"));
            }
            let spelled = format!("{}* {name}", ty.trim());
            return Ok(vec![Member {
                name: name.into(),
                ty: Type::Pointer,
                extents: vec![],
                comment,
                spelled,
            }]);
        }
        let (ty, names) = statement.split_once(' ').ok_or_else(|| no_type(statement))?;
        names
            .split(',')
            .map(|declarator| {
                let mut parts = declarator.trim().split('[');
                let name = parts.next().unwrap_or_default().trim();
                let extents: Result<Vec<Extent>, String> =
                    parts.map(|part| extent(part, parameter, constants)).collect();
                let parsed = parse_type(ty).filter(|_| is_identifier(name)).ok_or_else(|| no_type(statement));
                let spelled = format!("{ty} {}", declarator.trim());
                Ok(Member {
                    name: name.into(),
                    ty: parsed?,
                    extents: extents?,
                    comment: comment.clone(),
                    spelled,
                })
            })
            .collect()
    }
}

fn parse_type(ty: &str) -> Option<Type> {
    const NUMBERS: [(&str, &str, usize); 6] = [
        ("int32_t", "i32", 4),
        ("uint32_t", "u32", 4),
        ("int64_t", "i64", 8),
        ("uint64_t", "u64", 8),
        ("float", "f32", 4),
        ("double", "f64", 8),
    ];
    if let Some(&(_, rust, num_bytes)) = NUMBERS.iter().find(|(cpp, ..)| *cpp == ty) {
        return Some(Type::Number { rust, num_bytes });
    }
    let (name, argument) = match ty.strip_suffix('>').and_then(|ty| ty.split_once('<')) {
        Some((name, argument)) => (name, Some(argument.parse().ok()?)),
        None => (ty, None),
    };
    let is_struct = is_identifier(name) && name.starts_with(|c: char| c.is_ascii_uppercase());
    is_struct.then(|| Type::Struct(name.to_string(), argument))
}

/// The extent in `4]`, a number, a marked constant or the template's parameter.
fn extent(part: &str, parameter: Option<&str>, constants: &[Constant]) -> Result<Extent, String> {
    let word = part.strip_suffix(']').unwrap_or(part).trim();
    if parameter == Some(word) {
        return Ok(Extent::Parameter);
    }
    let constant = constants.iter().find(|constant| constant.name == word);
    let number = constant.map_or_else(|| word.parse().ok(), |constant| usize::try_from(constant.value).ok());
    number
        .map(Extent::Number)
        .ok_or_else(|| format!("`{word}` is neither a number nor a constant marked FOR_RUST; mark it"))
}

fn no_type(statement: &str) -> String {
    format!(
        "`{statement}` cannot be shared with Rust; take int32_t, uint32_t, int64_t, uint64_t, float, double, a pointer, or \
         a struct of these"
    )
}

/// Whether `name` can be the name of something in C++.
pub fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
