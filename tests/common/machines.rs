//! Two machines of mpirun: network namespaces with a link between them, which root makes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, id};

use crate::program::Program;

/// Two network namespaces, joined by a pair of interfaces.
pub struct Machines {
    names: [String; 2],
}

impl Machines {
    const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

    /// Nothing where the system does not let us make them.
    pub fn new() -> Option<Machines> {
        let names = ["a", "b"].map(|machine| format!("residuum-{}-{machine}", id()));
        // What is made is removed, whatever comes of it.
        let machines = Machines { names };
        let [a, b] = &machines.names;
        let [veth_a, veth_b] = machines.interfaces();
        for name in [a, b] {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        ip(&format!("link add {veth_a} netns {a} type veth peer name {veth_b} netns {b}"))?;
        for ((name, interface), address) in [(a, &veth_a), (b, &veth_b)].into_iter().zip(Machines::ADDRESSES)
        {
            ip(&format!("-n {name} address add {address}/24 dev {interface}"))?;
            ip(&format!("-n {name} link set {interface} up"))?;
        }
        Some(machines)
    }

    fn interfaces(&self) -> [String; 2] {
        ["a", "b"].map(|end| format!("rs{}{end}", id()))
    }

    /// Takes the link away.
    pub fn cut(&self) {
        let [_, b] = &self.names;
        ip(&format!("-n {b} link set {} down", self.interfaces()[1])).expect("the interface is there");
    }

    /// The processes of both machines.
    fn processes(&self) -> Vec<String> {
        let of = |name| ip(&format!("netns pids {name}")).unwrap_or_default();
        self.names.iter().flat_map(|name| of(name).lines().map(String::from).collect::<Vec<_>>()).collect()
    }

    /// Whether a process called `name` is on either.
    pub fn have_process(&self, name: &str) -> bool {
        let is_it =
            |pid: &String| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it.trim() == name);
        self.processes().iter().any(is_it)
    }

    /// `call` with a rank on each machine, started on the first.
    pub fn mpirun(&self, program: &Program, call: &str) -> Command {
        // What mpirun starts its daemon on the other machine by.
        let agent = program.path("agent.sh");
        let [a, b] = &self.names;
        let exec = format!("#!/bin/sh\nshift\nexec ip netns exec {b} sh -c \"$*\"\n");
        fs::write(&agent, exec).unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        let [host_a, host_b] = Machines::ADDRESSES;
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", a, "mpirun", "--allow-run-as-root", "-n", "2"])
            .args(["--host", &format!("{host_a}:1,{host_b}:1"), "--mca", "btl", "tcp,self"])
            .args(["--mca", "plm_rsh_agent", agent.to_str().unwrap(), env!("CARGO_BIN_EXE_residuum")])
            .args(call.split_whitespace());
        program.settle(command)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = Command::new("kill").args(["-s", "KILL", &pid]).status();
        }
        for name in &self.names {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

/// What `ip` prints, where it succeeds.
fn ip(arguments: &str) -> Option<String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}
