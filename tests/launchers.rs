//! What is understood of the variables that launchers set.

use std::process::Command;

use residuum::dist::{Launcher, Rank, World};
use residuum::{Error, Result};

/// Variables and what they are set to.
type Vars<'a> = &'a [(&'a str, &'a str)];

fn world(vars: Vars<'_>) -> Result<Option<World>> {
    World::of(|name| vars.iter().find(|(var, _)| *var == name).map(|(_, value)| value.to_string()))
}

fn found(launcher: Launcher, rank: (usize, usize), local: (usize, usize)) -> Option<World> {
    let of = |(index, count)| Rank { index, count };
    Some(World { launcher, rank: of(rank), local: of(local) })
}

#[test]
fn every_launcher_is_understood() {
    let torchrun = [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")];
    assert_eq!(world(&torchrun).unwrap(), found(Launcher::Torchrun, (5, 8), (1, 4)));
    // Without a word of machines, there is one.
    assert_eq!(world(&torchrun[..2]).unwrap(), found(Launcher::Torchrun, (5, 8), (5, 8)));
    let open_mpi = [
        ("OMPI_COMM_WORLD_RANK", "2"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
    ];
    assert_eq!(world(&open_mpi).unwrap(), found(Launcher::OpenMpi, (2, 4), (0, 2)));
    let pmi = [("PMI_RANK", "1"), ("PMI_SIZE", "3"), ("MPI_LOCALRANKID", "1"), ("MPI_LOCALNRANKS", "3")];
    assert_eq!(world(&pmi).unwrap(), found(Launcher::Pmi, (1, 3), (1, 3)));
    let slurm = [
        ("SLURM_STEP_ID", "0"),
        ("SLURM_PROCID", "4"),
        ("SLURM_NTASKS", "9"),
        ("SLURM_STEP_NUM_TASKS", "5"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_NODEID", "2"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x2),1"),
    ];
    assert_eq!(world(&slurm).unwrap(), found(Launcher::Slurm, (4, 5), (0, 1)));
    assert_eq!(world(&slurm[..3]).unwrap(), found(Launcher::Slurm, (4, 9), (4, 9)));
}

#[test]
fn what_is_set_for_a_process_is_what_it_reads() {
    let there = found(Launcher::Torchrun, (5, 8), (1, 4));
    let mut command = Command::new("train");
    command.env("OMPI_COMM_WORLD_RANK", "0").env("OMPI_COMM_WORLD_SIZE", "1");
    there.unwrap().set_env(&mut command);
    let var = |name: &str| {
        let (_, value) = command.get_envs().find(|(var, _)| *var == name)?;
        value.map(|value| value.to_str().unwrap().to_string())
    };
    assert_eq!(World::of(var).unwrap(), there);
}

#[test]
fn a_process_that_is_alone_is_told_as_such() {
    for vars in [
        &[][..],
        &[("RANK", "0"), ("WORLD_SIZE", "1")],
        &[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")],
        &[("RANK", ""), ("WORLD_SIZE", "")],
        // A shell of salloc and a script of sbatch know how many tasks the job may have, and are none of them.
        &[("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")],
        &[("SLURM_STEP_ID", "4294967290"), ("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")],
    ] {
        assert_eq!(world(vars).unwrap(), None, "{vars:?}");
    }
}

#[test]
fn the_first_launcher_is_believed_where_one_starts_the_other() {
    // torchrun on each of two machines, by srun.
    let both = [
        ("RANK", "3"),
        ("WORLD_SIZE", "4"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_PROCID", "1"),
        ("SLURM_NTASKS", "2"),
    ];
    assert_eq!(world(&both).unwrap(), found(Launcher::Torchrun, (3, 4), (3, 4)));
}

#[test]
fn contradictions_are_refused_by_name() {
    let cases: [(Vars<'_>, &[&str]); 6] = [
        (&[("RANK", "1")], &["RANK is set and WORLD_SIZE is not"]),
        (&[("PMI_SIZE", "2")], &["PMI_SIZE is set and PMI_RANK is not"]),
        (&[("RANK", "4"), ("WORLD_SIZE", "4")], &["RANK is 4 and WORLD_SIZE 4", "begin at 0"]),
        (&[("RANK", "first"), ("WORLD_SIZE", "4")], &["RANK is `first`"]),
        (
            &[("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")],
            &["LOCAL_WORLD_SIZE is 4, of 2 processes by WORLD_SIZE"],
        ),
        (
            &[
                ("RANK", "0"),
                ("WORLD_SIZE", "2"),
                ("OMPI_COMM_WORLD_RANK", "1"),
                ("OMPI_COMM_WORLD_SIZE", "2"),
            ],
            &["torchrun", "process 1 of 2", "mpirun", "2 of 2", "unset"],
        ),
    ];
    for (vars, parts) in cases {
        let error = world(vars).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, Error::Usage(_)), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

#[test]
fn ranks_meet_where_the_launcher_says() {
    let place = |vars: Vars<'_>| {
        let var = |name: &str| vars.iter().find(|(var, _)| *var == name).map(|(_, value)| value.to_string());
        world(vars)?.expect("there are ranks").meeting_place(var).map(|place| place.to_string())
    };
    let ranks = [("RANK", "1"), ("WORLD_SIZE", "2")];
    let with = |more: Vars<'_>| place(&[&ranks[..], more].concat());
    assert_eq!(with(&[]).unwrap(), "127.0.0.1:29500");
    assert_eq!(with(&[("MASTER_ADDR", "10.0.0.7"), ("MASTER_PORT", "4000")]).unwrap(), "10.0.0.7:4000");
    // torchrun itself listens at its port.
    let torchrun = [("MASTER_ADDR", "localhost"), ("MASTER_PORT", "4000"), ("TORCHELASTIC_RUN_ID", "x")];
    assert_eq!(with(&torchrun).unwrap(), "127.0.0.1:4001");
    assert_eq!(with(&[&torchrun[..], &[("RESIDUUM_PORT", "5000")]].concat()).unwrap(), "127.0.0.1:5000");
    assert_eq!(with(&[("MASTER_ADDR", "::1")]).unwrap(), "[::1]:29500");
    for (vars, part) in [
        (&[("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")][..], "set MASTER_ADDR"),
        (&[("MASTER_PORT", "many")], "MASTER_PORT is `many`"),
        (&[("MASTER_ADDR", "no.such.machine.invalid")], "MASTER_ADDR is `no.such.machine.invalid`"),
    ] {
        let error = with(vars).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(part), "{error}");
    }
}
