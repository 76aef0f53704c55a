//! Shapes, element types, memory layouts and the host tensor: the words every other module uses.

use std::fmt;

use arrayvec::ArrayVec;

/// The most dimensions a tensor has here.
pub const MAX_RANK: usize = 4;

/// The extents of a tensor, outermost first; at most [`MAX_RANK`] of them, stored inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// A shape with these extents.
    ///
    /// # Panics
    /// If there are more than [`MAX_RANK`] extents.
    pub fn new(extents: &[usize]) -> Shape {
        assert!(extents.len() <= MAX_RANK, "a shape has at most {MAX_RANK} dimensions, got {extents:?}");
        let mut dims = [1; MAX_RANK];
        dims[..extents.len()].copy_from_slice(extents);
        Shape { dims, rank: extents.len() }
    }

    /// The extents, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// The number of dimensions; a scalar has none.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of elements.
    pub fn num_elems(&self) -> usize {
        self.dims().iter().product()
    }

    /// The innermost extent (channels of an NHWC image); 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The four extents of an image (NHWC) or of filters (KRSC) whose rank a shape rule has checked.
    ///
    /// # Panics
    /// If the rank is not 4.
    pub fn nhwc(&self) -> [usize; 4] {
        self.as_4d().expect("a shape rule accepted this operand as an image or as filters")
    }

    /// The four extents of a rank-4 shape, or `None`.
    pub fn as_4d(&self) -> Option<[usize; 4]> {
        (self.rank == 4).then_some(self.dims)
    }
}

impl fmt::Display for Shape {
    /// `256x32x32x128`, or `scalar`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rank == 0 {
            return f.pad("scalar");
        }
        let text: ArrayVec<String, MAX_RANK> = self.dims().iter().map(usize::to_string).collect();
        f.pad(&text.join("x"))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(extents: [usize; N]) -> Shape {
        Shape::new(&extents)
    }
}

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE double precision; only the CPU device computes in it, as an oracle for the others.
    F64,
    /// The upper half of an IEEE single.
    Bf16,
    /// Unsigned byte: pixels, arg-max positions.
    U8,
    /// Signed 32-bit integer: labels, counts.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::Bf16 => 2,
            DType::U8 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bf16 => "bf16",
            DType::U8 => "u8",
            DType::I32 => "i32",
        })
    }
}

/// What the dimensions of a tensor mean, and so how it is written to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Images: batch, height, width, channels.
    Nhwc,
    /// Filters: out channels, kernel height, kernel width, in channels. Files hold them as OIHW.
    Krsc,
    /// Everything else, in the order of its dimensions.
    Flat,
}

impl Layout {
    /// The extents in files of a tensor of `shape` in memory: OIHW for KRSC.
    pub fn file_extents(self, shape: Shape) -> Vec<usize> {
        match (self, shape.as_4d()) {
            (Layout::Krsc, Some([k, r, s, c])) => vec![k, c, r, s],
            _ => shape.dims().to_vec(),
        }
    }
}

/// An f32 tensor in host memory: what files, initialisers and tests hand around.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Shape,
    data: Vec<f32>,
}

impl Tensor {
    /// A tensor of `shape` over `data`.
    ///
    /// # Panics
    /// If `data` does not hold exactly the elements of `shape`.
    pub fn new(shape: impl Into<Shape>, data: Vec<f32>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.num_elems(), data.len(), "a tensor of {shape} needs as many elements");
        Tensor { shape, data }
    }

    /// Shape of the tensor.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The elements, innermost dimension fastest.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The elements by value.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// This rank-4 tensor with its dimensions reordered: result dimension `i` is dimension `order[i]` here.
    ///
    /// # Panics
    /// If the tensor is not of rank 4.
    pub fn permuted(&self, order: [usize; 4]) -> Tensor {
        let from = self.shape.nhwc();
        let strides = [from[1] * from[2] * from[3], from[2] * from[3], from[3], 1];
        let to = order.map(|axis| from[axis]);
        let step = order.map(|axis| strides[axis]);
        let mut data = Vec::with_capacity(self.data.len());
        for a in 0..to[0] {
            for b in 0..to[1] {
                for c in 0..to[2] {
                    let base = a * step[0] + b * step[1] + c * step[2];
                    data.extend((0..to[3]).map(|d| self.data[base + d * step[3]]));
                }
            }
        }
        Tensor::new(to, data)
    }

    /// KRSC filters as files hold them, OIHW; tensors of other layouts unchanged.
    pub fn to_file_layout(&self, layout: Layout) -> Tensor {
        match layout {
            Layout::Krsc => self.permuted([0, 3, 1, 2]),
            Layout::Nhwc | Layout::Flat => self.clone(),
        }
    }

    /// The inverse of [`Tensor::to_file_layout`].
    pub fn from_file_layout(&self, layout: Layout) -> Tensor {
        match layout {
            Layout::Krsc => self.permuted([0, 2, 3, 1]),
            Layout::Nhwc | Layout::Flat => self.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_layout_is_oihw_and_comes_back() {
        let krsc = Tensor::new([2, 3, 1, 2], (0..12).map(|v| v as f32).collect());
        let oihw = krsc.to_file_layout(Layout::Krsc);
        assert_eq!(oihw.shape(), Shape::from([2, 2, 3, 1]));
        assert_eq!(oihw.data(), [0., 2., 4., 1., 3., 5., 6., 8., 10., 7., 9., 11.]);
        assert_eq!(oihw.from_file_layout(Layout::Krsc), krsc);
    }

    #[test]
    fn shapes_print_their_extents() {
        assert_eq!(format!("{:>8}", Shape::from([2, 3])), "     2x3");
        assert_eq!(Shape::from([]).to_string(), "scalar");
        assert_eq!(Shape::from([]).num_elems(), 1);
    }
}
