use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    model: String,
    lr: f64,
}

#[test]
fn runs_of_one_second_get_folders_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("new/runs");
    let mut paths: Vec<PathBuf> =
        (0..5).map(|_| RunDir::create(&output, "resnet18-64").unwrap().path).collect();
    paths.dedup();
    assert_eq!(paths.len(), 5);
    for path in &paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.len() >= "20260131-180000-resnet18-64".len() && name.contains("-resnet18-64"), "{name}");
        assert!(path.join("checkpoints").is_dir());
    }
}

#[test]
fn the_newest_whole_run_of_a_name_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let newest = |name| RunDir::newest(folder.path(), name).map(|run| run.path);
    assert_eq!(newest("a"), None);
    let names = ["20260131-180000-a", "20260131-180001-a", "20260131-180001-a-2", "20260131-180001-a-10"];
    for name in names {
        let path = folder.path().join(name);
        fs::create_dir_all(path.join(CHECKPOINTS)).unwrap();
        fs::write(path.join(CONFIG), "").unwrap();
        assert_eq!(newest("a"), Some(path));
    }
    // Of another name, without a stamp, or not whole.
    for name in ["20270131-180000-ab", "20270131-180000-a-b", "2027-01-31-1800-a", "20270131-180000-a"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        if !name.ends_with("0-a") {
            fs::create_dir(folder.path().join(name).join(CHECKPOINTS)).unwrap();
            fs::write(folder.path().join(name).join(CONFIG), "").unwrap();
        }
    }
    assert_eq!(newest("a"), Some(folder.path().join("20260131-180001-a-10")));
    assert_eq!(RunDir::newest(&folder.path().join("none"), "a"), None);
}

#[test]
fn the_newest_checkpoints_of_epochs_are_kept_whatever_lies_between_them() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(folder.path(), "a").unwrap();
    fs::write(run.best_weights(), "best").unwrap();
    fs::write(run.checkpoint("epoch-mine.safetensors"), "of a user").unwrap();
    let expected: [(u8, &[u8]); 7] = [
        (1, &[1]),
        (2, &[1, 2]),
        (3, &[1, 2, 3]),
        (3, &[1, 2, 3]),
        (12, &[2, 3, 12]),
        // The run has gone back to an earlier state.
        (4, &[2, 3, 4, 12]),
        (12, &[3, 4, 12]),
    ];
    for (epoch, expected) in expected {
        for path in [run.last_state(), run.last_weights()] {
            run.write(&format!("{CHECKPOINTS}/{}", path.file_name().unwrap().to_str().unwrap()), [epoch])
                .unwrap();
        }
        run.keep_last(u64::from(epoch), 3).unwrap();
        let states = (1..=12).filter(|of| run.checkpoint(&format!("{EPOCH}{of:04}{STATE}")).exists());
        assert_eq!(states.collect::<Vec<u8>>(), expected);
    }
    let read = |name: &str| fs::read(run.checkpoint(name)).ok();
    for epoch in [1, 2, 3, 4, 12] {
        for kind in [STATE, WEIGHTS] {
            let kept = read(&format!("{EPOCH}{epoch:04}{kind}"));
            // A link to the file, not to its name: later ones do not change it.
            assert_eq!(kept, (epoch >= 3).then(|| vec![epoch]), "{epoch}{kind}");
        }
    }
    assert!(run.best_weights().exists() && read("epoch-mine.safetensors").is_some());
    run.write(&format!("{CHECKPOINTS}/last.state.safetensors"), [13]).unwrap();
    assert_eq!(read("epoch-0012.state.safetensors"), Some(vec![12]));
    run.forget_states().unwrap();
    assert_eq!(run.states(), Vec::<PathBuf>::new());
    assert!(
        run.best_weights().exists()
            && run.last_weights().exists()
            && read("epoch-0012.safetensors").is_some()
    );
}

#[test]
fn a_configuration_comes_back_and_a_wrong_one_names_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(folder.path(), "a").unwrap();
    let config = Config { model: "resnet18".into(), lr: 0.1 + 0.2 };
    run.write_config(&config).unwrap();
    assert_eq!(run.read_config::<Config>().unwrap(), config);
    assert_eq!(RunDir::open(run.path()).unwrap(), run);

    run.write("config.toml", "model = \"resnet18\"\nlr = \"fast\"\n").unwrap();
    let error = run.read_config::<Config>().unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(text.contains("config.toml") && text.contains("line 2"), "{text}");
    run.write("config.toml", "model = \"resnet18\"\nlr = 1.0\nspeed = 2\n").unwrap();
    assert!(run.read_config::<Config>().unwrap_err().to_string().contains("unknown field `speed`"));
}

#[test]
fn what_is_not_a_run_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| RunDir::open(path).unwrap_err().to_string();
    assert!(message(&folder.path().join("none")).contains("none does not exist; give the folder that"));
    assert!(message(folder.path()).contains("it has no config.toml"));
    fs::write(folder.path().join("config.toml"), "").unwrap();
    assert!(message(&folder.path().join("config.toml")).contains("is a file, not a run folder"));
    assert!(message(folder.path()).contains("it has no checkpoints folder"));
}

#[test]
fn the_environment_is_written_without_the_programs_folder() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(folder.path(), "a").unwrap();
    let env = Env::of_this_process("cpu (2 threads)");
    run.write_env(&env).unwrap();
    let text = fs::read_to_string(run.file("env.json")).unwrap();
    assert_eq!(serde_json::from_str::<Env>(&text).unwrap(), env);
    assert_eq!(env.version, env!("CARGO_PKG_VERSION"));
    assert!(env.threads >= 1 && env.os.contains(std::env::consts::ARCH));

    let args = ["/home/someone/bin/residuum", "train", "--data-dir", "../places"].map(str::to_string);
    assert_eq!(command_line(args.into_iter()), ["residuum", "train", "--data-dir", "../places"]);
    assert_eq!(cpu_name("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n").unwrap(), "Some CPU @ 2 GHz");
    assert_eq!(cpu_name("Features: fp asimd\n"), None);
}

#[test]
fn log_lines_are_appended_with_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(folder.path(), "a").unwrap();
    run.log("epoch 1 done").unwrap();
    run.log("epoch 2 done").unwrap();
    let text = fs::read_to_string(run.file("log.txt")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].ends_with("Z epoch 1 done") && lines[1].ends_with("Z epoch 2 done"), "{text}");
}
