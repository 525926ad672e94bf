//! Processes, threads and cgroups as they begin and end, and the programs that they execute.

pub mod cgroup;
pub mod exec;
pub mod exec_args;
pub mod exec_failure;
pub mod signal;
pub mod task;
