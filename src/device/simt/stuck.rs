//! Why no thread of a block can go on: who waits where.

use super::abi::{WarpCall, call_name};
use super::finding::Place;

/// What a thread waits for.
#[derive(Debug, Clone, Copy)]
pub enum Wait {
    /// Its turn.
    Turn,
    /// `__syncthreads` at that place.
    Barrier(Place),
    /// The other lanes of its warp.
    Warp(*mut WarpCall),
    /// The other threads of its warp group.
    Group(*mut WarpCall),
    /// Nothing more: the kernel has returned.
    Exited,
}

/// The thread to blame, where it waits, and who waits for what, given what each thread waits for. At least one of them
/// waits, and none for its turn.
#[cold]
pub fn explain(waits: impl Iterator<Item = Wait>) -> (usize, Place, String) {
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    let mut at_barrier = None;
    let mut at_warp_call = None;
    for (thread, wait) in waits.enumerate() {
        let doing = match wait {
            Wait::Turn | Wait::Exited => "have returned".to_string(),
            Wait::Barrier(place) => {
                at_barrier.get_or_insert((thread, place));
                format!("wait at __syncthreads in {place}")
            }
            Wait::Warp(call) | Wait::Group(call) => {
                // SAFETY: calls lie on the stacks of suspended threads.
                let WarpCall { kind, mask, file, line, .. } = unsafe { &*call };
                let place = Place::Line(*file, *line);
                at_warp_call.get_or_insert((thread, place));
                match wait {
                    Wait::Group(_) => format!("wait at {} in {place}", call_name(*kind)),
                    _ => format!("wait at {} with mask {mask:#010x} in {place}", call_name(*kind)),
                }
            }
        };
        match groups.iter_mut().find(|(text, _)| *text == doing) {
            Some((_, threads)) => threads.push(thread),
            None => groups.push((doing, vec![thread])),
        }
    }
    let title = if at_warp_call.is_some() {
        "the lanes of a warp, or the warps of a group, do not meet: mismatched mask or divergent code"
    } else {
        "divergent barrier: __syncthreads is not reached by every thread"
    };
    let parts: Vec<String> =
        groups.iter().map(|(doing, threads)| format!("threads {} {doing}", ranges(threads))).collect();
    let (thread, place) = at_warp_call.or(at_barrier).unwrap_or((0, Place::Unknown));
    (thread, place, format!("{title}; {}", parts.join(", ")))
}

/// `0-31, 64` for ascending numbers.
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    const MOST: usize = 6;
    let mut texts: Vec<String> = parts
        .iter()
        .take(MOST)
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    if parts.len() > MOST {
        texts.push("...".into());
    }
    texts.join(", ")
}
