//! What a file is, by its first bytes.

use crate::show::show_text;

/// Formats of weights that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Safetensors,
    /// JSON that says which file has which tensor.
    Index,
    /// What `torch.save` writes since PyTorch 1.6.
    Zip,
    /// What it wrote before: pickles, followed by the elements.
    Pickle,
}

/// Where a tar archive says that it is one.
const TAR_MARK: std::ops::Range<usize> = 257..262;

/// Other things that people have in files which should hold weights: their first bytes, and what to do.
const OTHERS: [(&[u8], &str); 10] = [
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS, not the weights that it stands for; fetch them with git lfs pull, or download the file \
         itself",
    ),
    (b"\x1f\x8b", "is compressed by gzip; unpack it first (gunzip)"),
    (b"BZh", "is compressed by bzip2; unpack it first (bunzip2)"),
    (b"\xfd7zXZ\0", "is compressed by xz; unpack it first (unxz)"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it first (unzstd)"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it, and name the file of weights in it"),
    (b"Rar!", "is a RAR archive; unpack it, and name the file of weights in it"),
    (
        b"\x89HDF\r\n",
        "is an HDF5 file, as Keras writes them, whose layers are not those of torchvision; give weights of PyTorch",
    ),
    (
        b"\x93NUMPY",
        "is one array of numpy, without names; save all tensors by name, with torch.save or as safetensors",
    ),
    (b"GGUF", "is a GGUF file, a format of language models; give weights of a residual network of PyTorch"),
];

/// The kind of a file of `length` bytes that begins with `head`, or what it is instead.
pub(super) fn of(head: &[u8], length: u64) -> Result<Kind, String> {
    if length == 0 {
        return Err("is empty; restore the file from a copy, or save or download it again".into());
    }
    if let Some((_, what)) = OTHERS.iter().find(|(mark, _)| head.starts_with(mark)) {
        return Err((*what).into());
    }
    if head.get(TAR_MARK) == Some(b"ustar") {
        return Err("is a tar archive; unpack it, and name the file of weights in it (if PyTorch before 0.1.10 wrote it, load \
                    it there and save it again)"
            .into());
    }
    if head.starts_with(b"PK") {
        return Ok(Kind::Zip);
    }
    if looks_like_safetensors(head) {
        return Ok(Kind::Safetensors);
    }
    if is_pickle(head) {
        return Ok(Kind::Pickle);
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    match text.first() {
        Some(b'{') => Ok(Kind::Index),
        Some(b'<') => Err("is a web page, not the weights that were to be downloaded; give the address of the file itself, and \
                           look at what came"
            .into()),
        _ => Err(format!(
            "is neither a safetensors file nor one of torch.save (it begins with `{}`); give weights in one of these forms",
            show_text(&String::from_utf8_lossy(&head[..head.len().min(16)]))
        )),
    }
}

/// Whether the length of a header comes first, and a header after it.
fn looks_like_safetensors(head: &[u8]) -> bool {
    // A file of JSON begins with a brace too, but its next bytes are text.
    head.first_chunk().is_some_and(|length| u64::from_le_bytes(*length) < 1 << 40)
        && head.get(8).is_none_or(|&byte| byte == b'{')
}

/// Whether a pickle begins so: with the number of its protocol, or, in protocols 0 and 1, with a number or a container.
fn is_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 0..=5, ..] | [b'L' | b'(' | b'}' | b']', ..]) && !head.starts_with(b"{")
}
