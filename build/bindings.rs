//! Writes what Rust calls of the kernels: `bindings.rs`, which `src/device/kernels.rs` includes. Argument structs, one
//! typed `Entry` a kernel, and the shared constants, in a module for each file that has some.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;

use crate::declared::{Constant, Extent, Member, Struct, Type};
use crate::source::{Entry, KernelFile};
use crate::table::{self, Listing};

/// Writes the bindings of all `files`, whose kernels are listed in `listing`.
pub fn write(files: &[KernelFile], listing: &Listing<'_>, out_dir: &Path) -> Result<(), String> {
    let mut code = String::new();
    write_structs(&mut code, &structs(files)?).map_err(|error| error.to_string())?;
    write_sizes(&mut code, files).map_err(|error| error.to_string())?;
    write_entries(&mut code, listing).map_err(|error| error.to_string())?;
    write_constants(&mut code, &constants(files)).map_err(|error| error.to_string())?;
    table::write(out_dir, "bindings.rs", &code)
}

/// The structs of all files, by name; a header's are read once for each file that includes it.
fn structs(files: &[KernelFile]) -> Result<BTreeMap<&str, &Struct>, String> {
    let mut all: BTreeMap<&str, &Struct> = BTreeMap::new();
    for found in files.iter().flat_map(|file| &file.declared.structs) {
        if let Some(other) = all.insert(&found.name, found)
            && other.file != found.file
        {
            let [first, second] = [&other.file, &found.file].map(|file| file.display());
            return Err(format!("`struct {}` is in both {first} and {second}; rename one", found.name));
        }
    }
    Ok(all)
}

/// The constants of all files, by the file that declares them and their name.
fn constants(files: &[KernelFile]) -> BTreeMap<&Path, BTreeMap<&str, &Constant>> {
    let mut all: BTreeMap<&Path, BTreeMap<&str, &Constant>> = BTreeMap::new();
    for constant in files.iter().flat_map(|file| &file.declared.constants) {
        all.entry(&constant.file).or_default().insert(&constant.name, constant);
    }
    all
}

fn write_sizes(code: &mut String, files: &[KernelFile]) -> fmt::Result {
    let layouts = files.iter().flat_map(|file| &file.declared.layouts);
    for (name, num_bytes) in
        layouts.map(|layout| (&layout.name, layout.num_bytes)).collect::<BTreeMap<_, _>>()
    {
        writeln!(code, "const _: () = assert!(size_of::<{name}>() == {num_bytes});")?;
    }
    Ok(())
}

fn write_structs(code: &mut String, structs: &BTreeMap<&str, &Struct>) -> fmt::Result {
    for Struct { name, parameter, file, comment, members } in structs.values() {
        let place = file.display();
        writeln!(code, "/// {}", sentence(&format!("`{name}` of {place}"), comment))?;
        writeln!(code, "#[repr(C)]\n#[derive(Debug, Clone, Copy)]")?;
        match parameter {
            None => writeln!(code, "#[derive(bytemuck::Pod, bytemuck::Zeroable)]\npub struct {name} {{")?,
            Some(_) => writeln!(code, "pub struct {name}<const N: usize> {{")?,
        }
        for Member { name, ty, extents, comment, spelled } in members {
            let element = match ty {
                Type::Number { rust, .. } => (*rust).to_string(),
                Type::Pointer => "u64".to_string(),
                Type::Struct(part, None) => part.clone(),
                Type::Struct(part, Some(argument)) => format!("{part}<{argument}>"),
            };
            let ty = extents.iter().rev().fold(element, |element, extent| match extent {
                Extent::Number(number) => format!("[{element}; {number}]"),
                Extent::Parameter => format!("[{element}; N]"),
            });
            writeln!(code, "    /// {}\n    pub {name}: {ty},", sentence(&format!("`{spelled}`"), comment))?;
        }
        writeln!(code, "}}")?;
        if parameter.is_some() {
            for marker in ["Zeroable", "Pod"] {
                writeln!(code, "// SAFETY: numbers of one size and arrays of them, which leave no padding.")?;
                writeln!(code, "unsafe impl<const N: usize> bytemuck::{marker} for {name}<N> {{}}")?;
            }
        }
    }
    Ok(())
}

fn write_entries(code: &mut String, listing: &Listing<'_>) -> fmt::Result {
    for (index, (file, Entry { name, args, block_threads })) in listing.0.iter().enumerate() {
        let place = file.path.display();
        writeln!(code, "/// `{name}` of {place}, in blocks of {block_threads} threads.")?;
        let upper = name.to_uppercase();
        writeln!(code, "pub static {upper}: Entry<{args}> = Entry::new(&KERNELS[{index}]);")?;
        let Some(stem) = name.strip_suffix("_f32") else { continue };
        let twin = format!("{stem}_bf16");
        let has_twin = |(_, other): &&(&KernelFile, &Entry)| other.name == twin && other.args == *args;
        if listing.0.iter().any(|other| has_twin(&other)) {
            writeln!(
                code,
                "/// [`{upper}`], or [`{}`], by the type of the elements.\n///",
                twin.to_uppercase()
            )?;
            writeln!(code, "/// # Errors\n/// [`Error::Device`] for every other type.")?;
            writeln!(code, "pub fn {stem}(dtype: DType) -> Result<&'static Entry<{args}>> {{")?;
            writeln!(code, "    by_dtype(dtype, &{upper}, &{})\n}}", twin.to_uppercase())?;
        }
    }
    Ok(())
}

fn write_constants(code: &mut String, constants: &BTreeMap<&Path, BTreeMap<&str, &Constant>>) -> fmt::Result {
    for (file, constants) in constants {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        writeln!(code, "/// Constants of {}.\npub mod {stem} {{", file.display())?;
        for Constant { name, value, rust, comment, .. } in constants.values() {
            writeln!(code, "    /// {}", escaped(comment))?;
            writeln!(code, "    pub const {}: {rust} = {value};", rust_name(name))?;
        }
        writeln!(code, "}}")?;
    }
    Ok(())
}

/// `kMaxTensors` as Rust writes it, `MAX_TENSORS`.
fn rust_name(name: &str) -> String {
    let mut upper = String::new();
    for c in name.chars().skip(1) {
        if c.is_ascii_uppercase() && !upper.is_empty() {
            upper.push('_');
        }
        upper.push(c.to_ascii_uppercase());
    }
    upper
}

/// Documentation of something from its name and the comment on it.
fn sentence(name: &str, comment: &str) -> String {
    if comment.is_empty() { format!("{name}.") } else { format!("{name}: {}", escaped(comment)) }
}

/// A comment as documentation: what looks like a link there is none.
fn escaped(comment: &str) -> String {
    comment.replace('[', "\\[").replace(']', "\\]").replace('<', "\\<")
}
