//! What the process has used, as Linux tells it.

use std::fs;
use std::time::Duration;

/// Of the numbers of `/proc/self/stat`, a hundredth of a second.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of all threads so far.
pub fn cpu_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses, which comes second, may hold spaces; `utime` and `stime` are the 14th and 15th.
    let after_name = stat.rsplit(')').next()?;
    let times: Vec<u32> = after_name.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    Some(TICK * times.iter().sum::<u32>())
}

/// Largest memory so far, in MiB.
pub fn peak_memory_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? >> 10)
}
