//! A program that a launcher has started several times.

use crate::program::{Program, texts};

#[test]
fn processes_of_a_launcher_do_not_train_each_a_run_of_its_own() {
    let program = Program::with_scenes();
    let train = "train --data-dir scenes --img-size 32 --batch-size 8 --max-steps 1";
    let run = |args: &str, vars: &[(&str, &str)]| {
        let output = program.command(args).envs(vars.iter().copied()).output().unwrap();
        (output.status.code(), texts(&output).1)
    };
    let ranks = [("RANK", "1"), ("WORLD_SIZE", "2")];
    let (code, said) = run(train, &ranks);
    assert!(code == Some(2) && said.contains("torchrun") && said.contains("as process 2 of 2"), "{said}");
    assert!(said.contains("--no-dist") && !program.path("runs").exists(), "{said}");
    let (code, said) = run(train, &ranks[..1]);
    assert!(code == Some(2) && said.contains("WORLD_SIZE is not") && said.contains("--no-dist"), "{said}");
    let (code, said) = run(&format!("{train} --no-dist"), &ranks);
    assert!(code == Some(0) && program.path("runs").exists(), "{said}");
}
