//! Programs that mpirun starts as several processes of this machine.

use std::io;
use std::process::{Command, exit};

/// mpirun with so many processes, before the program and what is asked of it.
pub fn mpirun(count: usize) -> Command {
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--allow-run-as-root", "--oversubscribe", "-n", &count.to_string()]);
    mpirun
}

/// Ends because it is not there.
pub fn end_without(error: &io::Error) -> ! {
    eprintln!("mpirun cannot be started: {error}; install Open MPI (apt install openmpi-bin)");
    exit(2);
}
