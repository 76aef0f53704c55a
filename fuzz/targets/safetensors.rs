#![no_main]

residuum_fuzz::target!("safetensors");
