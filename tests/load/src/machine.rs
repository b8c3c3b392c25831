//! What does this machine have, and what does one of its processes use?

use rustix::process::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;

/// Ticks of a second in /proc, whatever the kernel's own: USER_HZ is 100 wherever Linux runs today.
const TICKS: f64 = 100.0;

/// What a run is bounded by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// Hard limit of open files for each process; `None` is no limit.
    pub(crate) descriptors: Option<u64>,
    /// Memory that is available without swapping, bytes.
    pub(crate) available: u64,
    /// Ports that the system hands out for one source address.
    pub(crate) ports: u32,
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) kernel: String,
    /// Memory in all, bytes.
    pub(crate) memory: u64,
}

impl Machine {
    /// What there is now.
    pub(crate) fn here() -> io::Result<Machine> {
        let memory = read("/proc/meminfo")?;
        let range = read("/proc/sys/net/ipv4/ip_local_port_range")?;
        let mut range = range.split_whitespace().filter_map(|port| port.parse::<u32>().ok());
        let (first, last) = (range.next().unwrap_or(32_768), range.next().unwrap_or(60_999));
        let processor = read("/proc/cpuinfo").unwrap_or_default();
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        Ok(Machine {
            descriptors: getrlimit(Resource::Nofile).maximum,
            available: kib(&memory, "MemAvailable:").unwrap_or(0),
            ports: (last + 1).saturating_sub(first),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: processor.trim_start_matches([' ', '\t', ':']).to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            memory: kib(&memory, "MemTotal:").unwrap_or(0),
        })
    }
}

/// How busy the machine was over the last minute.
pub(crate) fn load() -> String {
    let load = read("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// Takes all descriptors that the system grants, for this process and those that it starts.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// What a process has used and uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Seconds of all its threads, user and system.
    pub(crate) cpu: f64,
    /// Resident set, bytes.
    pub(crate) resident: u64,
    /// The largest resident set since [`forget_peak`], or since it began, bytes.
    pub(crate) peak: u64,
}

impl Usage {
    /// Of a process that runs; nothing of one that does not.
    pub(crate) fn of(process: u32) -> Usage {
        let status = read(&format!("/proc/{process}/status")).unwrap_or_default();
        let stat = read(&format!("/proc/{process}/stat")).unwrap_or_default();
        Usage {
            cpu: cpu_ticks(&stat) as f64 / TICKS,
            resident: kib(&status, "VmRSS:").unwrap_or(0),
            peak: kib(&status, "VmHWM:").unwrap_or(0),
        }
    }

    /// The sum of several processes.
    pub(crate) fn of_all(processes: &[u32]) -> Usage {
        processes.iter().map(|process| Usage::of(*process)).fold(Usage::default(), |sum, usage| Usage {
            cpu: sum.cpu + usage.cpu,
            resident: sum.resident + usage.resident,
            peak: sum.peak + usage.peak,
        })
    }
}

/// Lets the peak of a process begin anew. Where the kernel does not allow it the peak is that since the process began.
pub(crate) fn forget_peak(process: u32) {
    let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path).map_err(|cause| io::Error::new(cause.kind(), format!("{path}: {cause}")))
}

/// A line such as `VmRSS:     1234 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// User and system time of /proc/PID/stat; the name of the process may hold anything.
fn cpu_ticks(stat: &str) -> u64 {
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_the_kernel_writes_it() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 500 0 0 0 123 45 0 0 20 0 3 0 100 0 0";
        assert_eq!(cpu_ticks(stat), 168);
        assert_eq!(kib("VmPeak:\t  100 kB\nVmRSS:\t     12 kB\n", "VmRSS:"), Some(12 * 1024));
        let usage = Usage::of(std::process::id());
        assert!(usage.resident > 1024 * 1024 && usage.peak >= usage.resident / 2, "{usage:?}");
        assert_eq!(Usage::of(u32::MAX), Usage::default());
        let machine = Machine::here().expect("a machine");
        assert!(machine.available > 0 && machine.memory > machine.available / 2 && machine.ports > 0, "{machine:?}");
    }
}
