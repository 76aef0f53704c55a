//! Kills and faults over every kind of run: whatever happens, a run goes on to the bits that it would have had, or says why
//! it does not.
//!
//! A few of each in every run of the tests; `scripts/campaign.sh` says how many more, and with which seed.

mod faults;
mod kills;
mod kinds;
#[path = "../common/program.rs"]
mod program;

/// The number in the environment variable `name`, if it is set.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text}, not a number")))
}

fn seed() -> u64 {
    number("RESIDUUM_SEED").unwrap_or(1)
}

#[test]
fn kills_change_no_bit_of_any_kind_of_run() {
    let num_kills = number("RESIDUUM_KILLS").unwrap_or(6);
    let kills::Kills { kills, runs, faults } = kills::campaign(num_kills as u32, seed());
    println!("{kills} kills of {runs} runs: {} lost or other than they would have been", faults.len());
    assert!(faults.is_empty() && u64::from(kills) == num_kills, "{}", faults.join("\n"));
}

#[test]
fn faults_of_the_system_and_of_files_cost_no_bit_and_happen_in_no_silence() {
    let num_faults = number("RESIDUUM_FAULTS").unwrap_or(6);
    let faults::Faults { tried, faults } = faults::campaign(num_faults as u32, seed());
    println!("{tried} faults: {} lost or silent", faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
