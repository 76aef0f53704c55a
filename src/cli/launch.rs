//! `residuum launch`: the ranks of one machine as processes of this program, one for each GPU.

mod process;
mod supervisor;

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::str::FromStr;
use std::{env, process as this_process};

use clap::builder::{NonEmptyStringValueParser, RangedU64ValueParser};
use clap::{Args, Parser};

use self::supervisor::{Patience, Supervisor};
use super::Cli;
use crate::cli;
use crate::device::cuda::Driver;
use crate::dist::{Launcher, Rank, World};
use crate::error::{Error, Result};

/// More processes of one machine are a slip of the finger.
const MAX_PROCESSES: usize = 1024;

/// Start the ranks of this machine, one process for each GPU, to train one run together
#[derive(Debug, Args)]
#[command(override_usage = "residuum launch [OPTIONS] -- train [TRAIN OPTIONS]")]
pub(super) struct LaunchArgs {
    /// Processes to start on this machine: a number, or gpu for as many as there are GPUs
    #[arg(short, long, value_name = "N|gpu", default_value = "gpu")]
    nproc_per_node: NumProcesses,
    /// Machines that train the run together; give the command on each of them
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=65_536))]
    nnodes: usize,
    /// Number of this machine, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    node_rank: usize,
    /// Address of machine 0, where the ranks meet; required for several machines [default: 127.0.0.1]
    #[arg(long, value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    master_addr: Option<String>,
    /// Port there [default: a free one, or 29500 for several machines]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    master_port: Option<u16>,
    /// `train` and its options
    #[arg(value_name = "TRAIN", last = true, required = true)]
    command: Vec<OsString>,
}

/// How many processes a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumProcesses {
    /// As many as GPUs.
    Gpus,
    /// This many.
    Count(usize),
}

impl FromStr for NumProcesses {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<NumProcesses, String> {
        match text.parse() {
            _ if text == "gpu" => Ok(NumProcesses::Gpus),
            Ok(count @ 1..=MAX_PROCESSES) => Ok(NumProcesses::Count(count)),
            _ => Err(format!("must be a number from 1 to {MAX_PROCESSES}, or gpu")),
        }
    }
}

impl LaunchArgs {
    pub(super) fn run(self) -> Result<()> {
        if let Some(World { launcher, rank, .. }) = World::from_env()? {
            return Err(Error::Usage(format!(
                "{launcher} has started this as process {rank}: let it start `residuum train`, or unset its variables"
            )));
        }
        check_command(&self.command)?;
        let machine = self.machine()?;
        let program = env::current_exe().map_err(Error::io("find", "the program itself"))?;
        let mut ranks = Supervisor::new(Patience::default());
        ranks.pass_on_signals()?;
        for world in machine.worlds() {
            let mut command = Command::new(&program);
            command.args(&self.command);
            machine.set_env(&world, &mut command);
            ranks.start(&world, command)?;
        }
        match ranks.wait()? {
            0 => Ok(()),
            code => this_process::exit(code),
        }
    }

    /// What the flags say of this machine.
    fn machine(&self) -> Result<Machine> {
        let node = Rank { index: self.node_rank, count: self.nnodes };
        if node.index >= node.count {
            let message = format!("must be below --nnodes {}: machines are numbered from 0", node.count);
            return Err(Error::setting("node_rank", node.index, message));
        }
        let master_addr = match &self.master_addr {
            Some(host) => host.clone(),
            None if node.count == 1 => Ipv4Addr::LOCALHOST.to_string(),
            None => {
                let message = "needs --master-addr, the address of machine 0, the same on each";
                return Err(Error::setting("nnodes", node.count, message));
            }
        };
        let master_port = match self.master_port {
            Some(port) => port,
            None if node.count == 1 => free_port()?,
            None => World::DEFAULT_PORT,
        };
        let num_ranks = match self.nproc_per_node {
            NumProcesses::Gpus => num_gpus()?,
            NumProcesses::Count(count) => count,
        };
        Ok(Machine { node, num_ranks, master_addr, master_port })
    }
}

/// Refuses what ranks cannot train by, before each of them does.
fn check_command(command: &[OsString]) -> Result<()> {
    let refused = |name: &str, why: &str| {
        Err(Error::Usage(format!("{name}: {why}; give `residuum launch [OPTIONS] -- train [TRAIN OPTIONS]`")))
    };
    match command.first() {
        Some(name) if name == "train" => {}
        name => {
            let name = name.map_or_else(String::new, |name| name.display().to_string());
            return refused(&name, "only training is shared between ranks");
        }
    }
    // Ends the process where a flag is wrong, and after --help.
    match Cli::parse_from([OsString::from(env!("CARGO_PKG_NAME"))].iter().chain(command)).command {
        cli::Command::Train(train) if train.is_alone() => {
            refused("--no-dist", "each rank would train a run of its own")
        }
        _ => Ok(()),
    }
}

/// A port that no program listens at. Another may take it before the first rank does, which then says so.
fn free_port() -> Result<u16> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map(|addr| addr.port()).map_err(Error::io("find", "a free port of 127.0.0.1"))
}

fn num_gpus() -> Result<usize> {
    let remedy = "or say how many ranks there are to be, with --nproc-per-node N";
    match Driver::start().and_then(|driver| driver.gpus()) {
        Ok(gpus) if gpus.is_empty() => Err(Error::Device(format!("the driver shows no GPU; {remedy}"))),
        Ok(gpus) => Ok(gpus.len()),
        Err(Error::Device(what)) => Err(Error::Device(format!("{what}; {remedy}"))),
        Err(other) => Err(other),
    }
}

/// One of the machines of a run. Each has as many ranks.
struct Machine {
    /// Its number among the machines.
    node: Rank,
    /// How many ranks it has.
    num_ranks: usize,
    /// Where the ranks meet.
    master_addr: String,
    master_port: u16,
}

impl Machine {
    /// Its ranks.
    fn worlds(&self) -> impl Iterator<Item = World> {
        let (node, count) = (self.node, self.num_ranks);
        (0..count).map(move |index| World {
            launcher: Launcher::Torchrun,
            rank: Rank { index: node.index * count + index, count: node.count * count },
            local: Rank { index, count },
        })
    }

    /// Has the process that `command` starts find in its environment which rank it is, and where the ranks meet.
    fn set_env(&self, world: &World, command: &mut Command) {
        world.set_env(command);
        command.env("GROUP_RANK", self.node.index.to_string());
        command.env("MASTER_ADDR", &self.master_addr).env("MASTER_PORT", self.master_port.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: LaunchArgs,
    }

    fn machine(flags: &str) -> Result<Machine> {
        let line = ["launch"].into_iter().chain(flags.split_whitespace()).chain(["--", "train"]);
        Line::try_parse_from(line).unwrap().args.machine()
    }

    #[test]
    fn machines_share_the_ranks_in_blocks() {
        let machine = machine("-n 4 --nnodes 3 --node-rank 1 --master-addr a --master-port 7").unwrap();
        let ranks: Vec<_> = machine.worlds().map(|world| (world.rank, world.local)).collect();
        let of = |index, count| Rank { index, count };
        assert_eq!(ranks[0], (of(4, 12), of(0, 4)));
        assert_eq!(ranks[3], (of(7, 12), of(3, 4)));
        assert_eq!(ranks.len(), 4);
    }

    #[test]
    fn ranks_of_one_machine_meet_at_a_free_port_of_it() {
        let machine_alone = machine("-n 2").unwrap();
        assert_eq!(machine_alone.master_addr, "127.0.0.1");
        assert!(TcpListener::bind(("127.0.0.1", machine_alone.master_port)).is_ok());
        let machine = machine("-n 2 --nnodes 2 --master-addr node-a").unwrap();
        assert_eq!((machine.master_addr.as_str(), machine.master_port), ("node-a", World::DEFAULT_PORT));
    }

    #[test]
    fn a_process_finds_which_rank_it_is_in_its_environment() {
        let machine = machine("-n 2 --nnodes 2 --node-rank 1 --master-addr node-a --master-port 7").unwrap();
        let said = machine.worlds().map(|world| {
            let names =
                "$RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR $MASTER_PORT";
            let mut command = Command::new("sh");
            // As of a mpirun that has started the launcher alone.
            command.env("OMPI_COMM_WORLD_RANK", "0").env("OMPI_COMM_WORLD_SIZE", "1");
            command.args(["-c", &format!("echo {names} $OMPI_COMM_WORLD_RANK $OMPI_COMM_WORLD_SIZE")]);
            machine.set_env(&world, &mut command);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        });
        assert_eq!(said.collect::<Vec<_>>(), ["2 4 0 2 1 node-a 7\n", "3 4 1 2 1 node-a 7\n"]);
    }
}
