//! What launchers tell the processes that they start: torchrun, Open MPI's mpirun, Slurm's srun, and launchers that speak PMI.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::process::Command;
use std::str::FromStr;

use super::Rank;
use crate::error::{Error, Result};

/// Who started this process as one of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// torchrun, and whoever sets its variables.
    Torchrun,
    /// mpirun of Open MPI.
    OpenMpi,
    /// srun.
    Slurm,
    /// mpirun of MPICH and its kin.
    Pmi,
}

/// The variables of a launcher: number and count of all processes, and of those of this machine.
struct Names {
    launcher: Launcher,
    all: [&'static str; 2],
    local: [&'static str; 2],
}

/// In the order in which they are believed: torchrun may itself be started by srun, one on each machine.
const LAUNCHERS: [Names; 3] = [
    Names {
        launcher: Launcher::Torchrun,
        all: ["RANK", "WORLD_SIZE"],
        local: ["LOCAL_RANK", "LOCAL_WORLD_SIZE"],
    },
    Names {
        launcher: Launcher::OpenMpi,
        all: ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
        local: ["OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"],
    },
    Names {
        launcher: Launcher::Pmi,
        all: ["PMI_RANK", "PMI_SIZE"],
        local: ["MPI_LOCALRANKID", "MPI_LOCALNRANKS"],
    },
];

/// Slurm gives numbers from here on to what is no step of srun: the script of a batch job, the shell of salloc.
const FIRST_STEP_WITHOUT_SRUN: u32 = 0xffff_fff0;

/// The processes of a run, and which of them this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// Who started them.
    pub launcher: Launcher,
    /// This process among all.
    pub rank: Rank,
    /// This process among those of its machine: among all, where the launcher does not say.
    pub local: Rank,
}

impl World {
    /// The port where ranks meet if nothing says another; torchrun's own.
    pub const DEFAULT_PORT: u16 = 29_500;

    /// What the environment of this process says; `None` where it is alone.
    ///
    /// # Errors
    /// [`Error::Usage`] naming variables that contradict each other or are no numbers.
    pub fn from_env() -> Result<Option<World>> {
        World::of(|name| std::env::var(name).ok())
    }

    /// What an environment says in which a variable is as `var` has it; `None` where the process is alone.
    ///
    /// # Errors
    /// As [`World::from_env`].
    pub fn of(var: impl Fn(&str) -> Option<String>) -> Result<Option<World>> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let [torchrun, open_mpi, pmi] = &LAUNCHERS;
        let (torchrun, open_mpi) = (torchrun.read(&var)?, open_mpi.read(&var)?);
        if let (Some(one), Some(other)) = (torchrun, open_mpi)
            && one.rank != other.rank
        {
            return Err(Error::Usage(format!(
                "{} says that this is process {}, {} that it is {}: unset the variables of one of them",
                one.launcher, one.rank, other.launcher, other.rank
            )));
        }
        let world = match torchrun.or(open_mpi) {
            Some(world) => Some(world),
            None => match slurm(&var)? {
                Some(world) => Some(world),
                None => pmi.read(&var)?,
            },
        };
        Ok(world.filter(|world| world.rank.count > 1))
    }

    /// Has the process that `command` starts find this in its environment, in the variables of torchrun.
    pub fn set_env(&self, command: &mut Command) {
        let [torchrun, open_mpi, _] = &LAUNCHERS;
        for ([index, count], rank) in [(torchrun.all, self.rank), (torchrun.local, self.local)] {
            command.env(index, rank.index.to_string()).env(count, rank.count.to_string());
        }
        // Those of a mpirun that has started the caller alone would contradict; no others are read next to torchrun's.
        for name in open_mpi.all {
            command.env_remove(name);
        }
    }
}

impl World {
    /// Where rank 0 waits for the others, as the variables `MASTER_ADDR` and `MASTER_PORT` say, or on this machine where all are on it.
    /// torchrun listens at that port itself, so that it is the next then; `RESIDUUM_PORT` names another.
    ///
    /// # Errors
    /// [`Error::Usage`] if the machine is not named, or has no address.
    pub fn meeting_place(&self, var: impl Fn(&str) -> Option<String>) -> Result<SocketAddr> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let of_torchrun = u16::from(var("TORCHELASTIC_RUN_ID").is_some());
        let port = match number("RESIDUUM_PORT", &var)? {
            Some(port) => port,
            None => number::<u16>("MASTER_PORT", &var)?
                .map_or(World::DEFAULT_PORT, |port| port.saturating_add(of_torchrun)),
        };
        let Some(machine) = var("MASTER_ADDR") else {
            if self.local.count == self.rank.count {
                return Ok((Ipv4Addr::LOCALHOST, port).into());
            }
            return Err(Error::Usage(
                "the ranks are on several machines: set MASTER_ADDR to the one of the first rank, the same for all"
                    .into(),
            ));
        };
        let unknown = |why: String| {
            Error::Usage(format!("MASTER_ADDR is `{machine}`, a machine without an address here{why}"))
        };
        let found =
            (machine.as_str(), port).to_socket_addrs().map_err(|error| unknown(format!(": {error}")))?;
        let addresses: Vec<SocketAddr> = found.collect();
        // All have to take the same.
        let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        first.copied().ok_or_else(|| unknown(String::new()))
    }
}

impl Names {
    /// What the variables of this launcher say, if they are set.
    fn read(&self, var: &impl Fn(&str) -> Option<String>) -> Result<Option<World>> {
        let Some(rank) = rank_of(self.all, var)? else { return Ok(None) };
        let local = rank_of(self.local, var)?.unwrap_or(rank);
        if local.count > rank.count {
            let [[_, all], [_, of_machine]] = [self.all, self.local];
            let (count, local) = (rank.count, local.count);
            return Err(Error::Usage(format!("{of_machine} is {local}, of {count} processes by {all}")));
        }
        Ok(Some(World { launcher: self.launcher, rank, local }))
    }
}

/// What srun says of the step that this process belongs to.
fn slurm(var: &impl Fn(&str) -> Option<String>) -> Result<Option<World>> {
    match number::<u32>("SLURM_STEP_ID", var)? {
        Some(step) if step < FIRST_STEP_WITHOUT_SRUN => {}
        _ => return Ok(None),
    }
    // The job may have more tasks than the step.
    let count = if var("SLURM_STEP_NUM_TASKS").is_some() { "SLURM_STEP_NUM_TASKS" } else { "SLURM_NTASKS" };
    let Some(rank) = rank_of(["SLURM_PROCID", count], var)? else { return Ok(None) };
    let (index, node) = (number("SLURM_LOCALID", var)?, number("SLURM_NODEID", var)?);
    let tasks = var("SLURM_STEP_TASKS_PER_NODE").or_else(|| var("SLURM_TASKS_PER_NODE"));
    let on_node = node.zip(tasks).and_then(|(node, tasks)| tasks_of_node(&tasks, node));
    let local = match index.zip(on_node) {
        Some((index, count)) if index < count && count <= rank.count => Rank { index, count },
        _ => rank,
    };
    Ok(Some(World { launcher: Launcher::Slurm, rank, local }))
}

/// The number for machine `node` in `2(x3),1`, which is 2, 2, 2, 1.
fn tasks_of_node(tasks: &str, node: usize) -> Option<usize> {
    let mut first = 0;
    for part in tasks.split(',') {
        let (count, times) = match part.strip_suffix(')').and_then(|part| part.split_once("(x")) {
            Some((count, times)) => (count, times.parse().ok()?),
            None => (part, 1),
        };
        if (first..first + times).contains(&node) {
            return count.parse().ok();
        }
        first += times;
    }
    None
}

/// The number in the first variable, of as many as the second says.
fn rank_of([index, count]: [&str; 2], var: &impl Fn(&str) -> Option<String>) -> Result<Option<Rank>> {
    let problem = match (number(index, var)?, number(count, var)?) {
        (None, None) => return Ok(None),
        (Some(rank), Some(of)) if rank < of => return Ok(Some(Rank { index: rank, count: of })),
        (Some(rank), Some(of)) => format!("{index} is {rank} and {count} {of}; numbers begin at 0"),
        (Some(_), None) => format!("{index} is set and {count} is not"),
        (None, Some(_)) => format!("{count} is set and {index} is not"),
    };
    Err(Error::Usage(format!("{problem}: a launcher sets both")))
}

fn number<T: FromStr>(name: &str, var: &impl Fn(&str) -> Option<String>) -> Result<Option<T>> {
    let parse = |value: String| {
        let parsed = value.trim().parse();
        parsed.map_err(|_| Error::Usage(format!("{name} is `{value}`, which is not such a number")))
    };
    var(name).map(parse).transpose()
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Launcher::Torchrun => "torchrun (RANK, WORLD_SIZE)",
            Launcher::OpenMpi => "mpirun (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE)",
            Launcher::Slurm => "srun (SLURM_PROCID, SLURM_NTASKS)",
            Launcher::Pmi => "mpirun (PMI_RANK, PMI_SIZE)",
        })
    }
}

impl fmt::Display for Rank {
    /// As people count: `2 of 8` is rank 1.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.index + 1, self.count)
    }
}
