//! Answers the matrix unit's instructions where the processor has none: each of them raises SIGILL, and the handler does what
//! it says, by the manual, on tiles in the thread's memory.
//!
//! Only the forms that the assembly of `amx` uses are known; any other instruction ends the process as before.
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, and for the order of the additions in
//! `tdpbf16ps` what processors do, which the manual's pseudocode agrees with.

use std::cell::UnsafeCell;
use std::sync::Once;

const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// What a thread has in its tile registers, zeros where they are not configured.
struct Registers {
    is_configured: bool,
    rows: [u8; 8],
    row_bytes: [u16; 8],
    tiles: [[[u8; ROW_BYTES]; ROWS]; 8],
}

thread_local! {
    // Without a destructor or a lazy start, so that a signal handler may use it.
    static REGISTERS: UnsafeCell<Registers> = const {
        UnsafeCell::new(Registers {
            is_configured: false,
            rows: [0; 8],
            row_bytes: [0; 8],
            tiles: [[[0; ROW_BYTES]; ROWS]; 8],
        })
    };
}

/// From now on every thread of this process has a matrix unit, if only in this handler.
pub(super) fn answer_amx() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the action is zeroed, which is a valid one, then given a handler of the signature that SA_SIGINFO asks for.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
        }
    });
}

/// # Safety
/// Called by the kernel for an illegal instruction.
unsafe extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context of the thread that was stopped, and its instruction pointer shows the
    // instruction: at most 10 bytes here, inside a function of this process, which is longer.
    let (registers, code) = unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let code = &*(registers[libc::REG_RIP as usize] as *const [u8; 10]);
        (registers, code)
    };
    let done = REGISTERS.with(|unit| {
        // SAFETY: the thread itself is stopped, so nothing else uses its registers.
        unsafe { step(&mut *unit.get(), code, registers) }
    });
    match done {
        Some(length) => registers[libc::REG_RIP as usize] += length,
        // SAFETY: back to what happens without a handler, when the instruction is tried again.
        None => unsafe {
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        },
    }
}

/// Does what the instruction at `code` says and returns its bytes, or `None` if it is not one of the matrix unit.
///
/// # Safety
/// `registers` are those that the instruction finds, and what it reads and writes by them is there.
unsafe fn step(unit: &mut Registers, code: &[u8; 10], registers: &[i64; 23]) -> Option<i64> {
    // A three-byte VEX prefix: the upper bits of registers inverted, the map, then W, a third register inverted, L and the
    // prefix that is implied.
    let [0xC4, first, second, opcode, mod_rm, ..] = *code else { return None };
    let is_map_2 = first & 0x1F == 2 && second & 0x84 == 0;
    let (prefix, third) = (second & 3, usize::from(!second >> 3 & 0xF));
    let (form, reg, rm) = (mod_rm >> 6, usize::from(mod_rm >> 3 & 7), usize::from(mod_rm & 7));
    if !is_map_2 {
        return None;
    }
    if form == 3 {
        match (opcode, prefix) {
            (0x49, 0) => unit.is_configured = false,
            (0x49, 3) => unit.zero(reg)?,
            (0x5C, 2) => unit.multiply(reg, rm, third)?,
            _ => return None,
        }
        return Some(5);
    }
    let base_bit = usize::from(!first >> 5 & 1) << 3;
    let index_bit = usize::from(!first >> 6 & 1) << 3;
    let (mut base, mut index, mut scale, mut length) = (rm | base_bit, None, 0, 5);
    if rm == 4 {
        let sib = code[5];
        base = usize::from(sib & 7) | base_bit;
        index = Some(usize::from(sib >> 3 & 7) | index_bit);
        scale = sib >> 6;
        length = 6;
    }
    let displacement = match form {
        1 => i64::from(code[length] as i8),
        2 => i64::from(i32::from_le_bytes(*code[length..].first_chunk()?)),
        _ if base & 7 == 5 => return None,
        _ => 0,
    };
    length += [0, 1, 4][usize::from(form)];
    let address = general(registers, base) + displacement;
    let stride = index.map_or(0, |index| general(registers, index) << scale);
    let row = |i: usize| (address + i as i64 * stride) as *mut [u8; ROW_BYTES];
    match (opcode, prefix, index) {
        // SAFETY: the instruction reads these 64 bytes.
        (0x49, 0, _) => unit.configure(unsafe { &*row(0) })?,
        (0x4B, 3, Some(_)) => {
            unit.zero(reg)?;
            for (i, to) in unit.tiles[reg].iter_mut().enumerate() {
                // SAFETY: the instruction reads a row of 64 bytes here.
                *to = unsafe { row(i).read_unaligned() };
            }
        }
        (0x4B, 2, Some(_)) => {
            unit.whole(reg)?;
            for (i, from) in unit.tiles[reg].iter().enumerate() {
                // SAFETY: the instruction writes a row of 64 bytes here.
                unsafe { row(i).write_unaligned(*from) };
            }
        }
        _ => return None,
    }
    Some(length as i64)
}

/// The general register that instructions give the number `number`.
fn general(registers: &[i64; 23], number: usize) -> i64 {
    use libc::{REG_R8, REG_RAX, REG_RBP, REG_RBX, REG_RCX, REG_RDI, REG_RDX, REG_RSI, REG_RSP};
    const LOWER: [libc::c_int; 8] = [REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI];
    registers[LOWER.get(number).map_or(REG_R8 as usize + number.wrapping_sub(8), |name| *name as usize)]
}

impl Registers {
    fn configure(&mut self, config: &[u8; ROW_BYTES]) -> Option<()> {
        let is_reserved_zero =
            config[1..16].iter().chain(&config[32..48]).chain(&config[56..]).all(|b| *b == 0);
        (config[0] == 1 && is_reserved_zero).then_some(())?;
        for tile in 0..8 {
            self.row_bytes[tile] = u16::from_le_bytes([config[16 + 2 * tile], config[17 + 2 * tile]]);
            self.rows[tile] = config[48 + tile];
        }
        self.is_configured = true;
        self.tiles = [[[0; ROW_BYTES]; ROWS]; 8];
        Some(())
    }

    /// The assembly uses whole tiles; anything else is an error.
    fn whole(&self, tile: usize) -> Option<()> {
        (self.is_configured && (self.rows[tile], self.row_bytes[tile]) == (16, 64)).then_some(())
    }

    fn zero(&mut self, tile: usize) -> Option<()> {
        self.whole(tile)?;
        self.tiles[tile] = [[0; ROW_BYTES]; ROWS];
        Some(())
    }

    /// `tdpbf16ps`: adds to each of 16 by 16 sums the products of 16 pairs.
    fn multiply(&mut self, sums: usize, left: usize, right: usize) -> Option<()> {
        [sums, left, right].iter().try_for_each(|tile| self.whole(*tile))?;
        let narrow = |tile: &[[u8; ROW_BYTES]; ROWS], row: usize, i: usize| {
            let bits = u16::from_le_bytes([tile[row][2 * i], tile[row][2 * i + 1]]);
            flushed(f32::from_bits(u32::from(bits) << 16))
        };
        let (left, right) = (self.tiles[left], self.tiles[right]);
        for (m, row) in self.tiles[sums].iter_mut().enumerate() {
            for (n, sum) in row.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let chain = |parity: usize| {
                    (0..16).fold(0.0_f32, |chain, k| {
                        let (a, b) = (narrow(&left, m, 2 * k + parity), narrow(&right, k, 2 * n + parity));
                        flushed(a.mul_add(b, chain))
                    })
                };
                let before = flushed(f32::from_le_bytes(*sum));
                *sum = flushed(before + flushed(chain(0) + chain(1))).to_le_bytes();
            }
        }
        Some(())
    }
}

/// Zero for a subnormal number, of its sign.
fn flushed(value: f32) -> f32 {
    if value.is_subnormal() { 0.0_f32.copysign(value) } else { value }
}
