#![no_main]

residuum_fuzz::target!("state");
