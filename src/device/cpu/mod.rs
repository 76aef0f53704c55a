//! device/cpu
