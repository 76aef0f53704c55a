//! What the threads of a warp do together: shuffles, votes, tensor-core products, matrix loads.

use half::bf16;

use super::abi::{WarpCall, kind};

/// The calls of a warp by lane; `None` where the lane is not in the mask or does not exist.
pub type Calls<'a> = [Option<&'a mut WarpCall>; 32];

/// Carries out a call that all lanes of its mask have reached.
///
/// # Errors
/// The lane to blame and what it did wrong.
///
/// # Safety
/// The pointers in the calls must be those that kernels/host.h or kernels/mma.cuh put there, on stacks that are
/// suspended in that call.
pub unsafe fn perform(calls: &mut Calls<'_>) -> Result<(), (usize, String)> {
    let kind = calls.iter().flatten().next().map_or(kind::SYNCWARP, |call| call.kind);
    match kind {
        kind::SYNCWARP => Ok(()),
        kind::BALLOT => {
            let votes = (0..32)
                .filter(|&lane| calls[lane].as_ref().is_some_and(|call| call.value != 0))
                .fold(0u64, |votes, lane| votes | 1 << lane);
            calls.iter_mut().flatten().for_each(|call| call.value = votes);
            Ok(())
        }
        // SAFETY: as required of the caller.
        kind::MMA_M16N8K16_BF16 => unsafe { mma::<16, 2>(calls, |word| Ok(halves(word))) },
        // SAFETY: as required of the caller.
        kind::MMA_M16N8K8_TF32 => unsafe { mma::<8, 1>(calls, |word| Ok([tf32(word)?])) },
        // SAFETY: as required of the caller.
        kind::LDMATRIX | kind::LDMATRIX_TRANS => unsafe { ldmatrix(calls, kind == kind::LDMATRIX_TRANS) },
        _ => shuffle(calls),
    }
}

fn shuffle(calls: &mut Calls<'_>) -> Result<(), (usize, String)> {
    let values: [Option<u64>; 32] = std::array::from_fn(|lane| calls[lane].as_ref().map(|call| call.value));
    for (lane, call) in calls.iter_mut().enumerate() {
        let Some(call) = call else { continue };
        let width = call.width;
        if !matches!(width, 1 | 2 | 4 | 8 | 16 | 32) {
            return Err((lane, format!("shuffles with width {width}, which is not a power of two up to 32")));
        }
        let segment = lane as i32 & !(width - 1);
        let source = match call.kind {
            kind::SHUFFLE => segment + (call.operand & (width - 1)),
            kind::SHUFFLE_UP => lane as i32 - call.operand,
            kind::SHUFFLE_DOWN => lane as i32 + call.operand,
            _ => lane as i32 ^ call.operand,
        };
        // Lanes before the segment can be read by xor only; outside its reach a lane keeps its own value.
        let lowest = if call.kind == kind::SHUFFLE_XOR { 0 } else { segment };
        let source = if (lowest..segment + width).contains(&source) { source as usize } else { lane };
        call.value = values[source].ok_or_else(|| {
            (lane, format!("shuffles from lane {source}, which mask {:#010x} leaves out", call.mask))
        })?;
    }
    Ok(())
}

/// `d = a b + c`, 16x8 = 16xDEPTH DEPTHx8: each element starts from `c` and adds its products in ascending order of k, rounding
/// each sum to f32 (a product of two bf16, or of two TF32, is exact in f32). `elements` takes the word of a register apart, or
/// says what is wrong with it.
unsafe fn mma<const DEPTH: usize, const ELEMENTS: usize>(
    calls: &mut Calls<'_>,
    elements: fn(u32) -> Result<[f32; ELEMENTS], String>,
) -> Result<(), (usize, String)> {
    let mut a = [[0f32; DEPTH]; 16];
    let mut b = [[0f32; 8]; DEPTH];
    let mut c = [[0f32; 8]; 16];
    for (lane, call) in calls.iter().enumerate() {
        let call = whole_warp(lane, call.as_deref())?;
        let (group, pair) = (lane / 4, lane % 4 * 2);
        let (k, elements) = (lane % 4 * ELEMENTS, |word| elements(word).map_err(|what| (lane, what)));
        // SAFETY: kernels/mma.cuh passes float[4], uint32_t[4], uint32_t[2], float[4].
        let (fragment_a, fragment_b, fragment_c) = unsafe {
            (
                call.pointers[1].cast::<[u32; 4]>().read(),
                call.pointers[2].cast::<[u32; 2]>().read(),
                call.pointers[3].cast::<[f32; 4]>().read(),
            )
        };
        for (i, word) in fragment_a.into_iter().enumerate() {
            a[group + i % 2 * 8][k + i / 2 * DEPTH / 2..][..ELEMENTS].copy_from_slice(&elements(word)?);
        }
        for (i, word) in fragment_b.into_iter().enumerate() {
            for (n, element) in elements(word)?.into_iter().enumerate() {
                b[k + i * DEPTH / 2 + n][group] = element;
            }
        }
        for (i, value) in fragment_c.into_iter().enumerate() {
            c[group + i / 2 * 8][pair + i % 2] = value;
        }
    }
    for (row, sums) in a.iter().zip(&mut c) {
        for (a, b) in row.iter().zip(&b) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (lane, call) in calls.iter().enumerate() {
        let call = whole_warp(lane, call.as_deref())?;
        let (group, pair) = (lane / 4, lane % 4 * 2);
        let d: [f32; 4] = std::array::from_fn(|i| c[group + i / 2 * 8][pair + i % 2]);
        // SAFETY: pointer 0 is the thread's own float[4], written through a mutable reference in kernels/mma.cuh.
        unsafe { call.pointers[0].cast_mut().cast::<[f32; 4]>().write(d) };
    }
    Ok(())
}

unsafe fn ldmatrix(calls: &mut Calls<'_>, is_transposed: bool) -> Result<(), (usize, String)> {
    let num_matrices = whole_warp(0, calls[0].as_deref())?.operand as usize;
    let mut rows = [[0u16; 8]; 32];
    for (lane, row) in rows.iter_mut().enumerate() {
        let call = whole_warp(lane, calls[lane].as_deref())?;
        if lane < num_matrices * 8 {
            // SAFETY: the thread's row of 16 bytes; a checked launch has judged the address.
            *row = unsafe { call.pointers[1].cast::<[u16; 8]>().read_unaligned() };
        }
    }
    for (lane, call) in calls.iter().enumerate() {
        let call = whole_warp(lane, call.as_deref())?;
        let (group, pair) = (lane / 4, lane % 4 * 2);
        for matrix in 0..num_matrices {
            let rows = &rows[matrix * 8..matrix * 8 + 8];
            let [low, high] = if is_transposed {
                [rows[pair][group], rows[pair + 1][group]]
            } else {
                [rows[group][pair], rows[group][pair + 1]]
            };
            // SAFETY: pointer 0 is the thread's own uint32_t[num_matrices].
            unsafe {
                call.pointers[0]
                    .cast_mut()
                    .cast::<u32>()
                    .add(matrix)
                    .write(u32::from(low) | u32::from(high) << 16);
            }
        }
    }
    Ok(())
}

fn whole_warp(lane: usize, call: Option<&WarpCall>) -> Result<&WarpCall, (usize, String)> {
    call.ok_or_else(|| (0, format!("uses the tensor cores in a warp without lane {lane}; whole warps only")))
}

/// A number that is TF32 already: what the tensor cores would cut off is zero.
fn tf32(word: u32) -> Result<f32, String> {
    let value = f32::from_bits(word);
    if word & 0x1fff != 0 && !value.is_nan() {
        return Err(format!("multiplies {value:e} as TF32, which has fewer digits; round it by `to_tf32`"));
    }
    Ok(value)
}

fn halves(word: u32) -> [f32; 2] {
    [bf16::from_bits(word as u16).to_f32(), bf16::from_bits((word >> 16) as u16).to_f32()]
}
