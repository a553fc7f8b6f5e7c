//! What the kernel says of a process's threads: capabilities, filters (proc_pid_status(5)).

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use crate::Result;

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its name; that of the program for the first one.
    pub name: String,
    fields: BTreeMap<String, String>,
}

/// The threads of a process.
///
/// # Errors
/// When it has ended.
pub fn of(process: u32) -> Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // One that ended just now is none.
        let Ok(status) = std::fs::read_to_string(task?.path().join("status")) else { continue };
        let fields: BTreeMap<_, _> = status
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let name = fields.get("Name").context("a thread has a name")?.clone();
        threads.push(Thread { name, fields });
    }
    ensure!(!threads.is_empty(), "process {process} has no threads");
    Ok(threads)
}

impl Thread {
    /// A field as a number: `Seccomp`, `NoNewPrivs`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn number(&self, field: &str) -> Result<u64> {
        Ok(self.field(field)?.parse()?)
    }

    /// A set of capabilities, a bit for each: `CapEff`, `CapBnd`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn capabilities(&self, set: &str) -> Result<u64> {
        Ok(u64::from_str_radix(self.field(set)?, 16)?)
    }

    fn field(&self, field: &str) -> Result<&str> {
        let value = self.fields.get(field);
        Ok(value.with_context(|| format!("thread {} has no {field}", self.name))?)
    }
}
