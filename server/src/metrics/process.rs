//! What does the process take of its machine? Memory, descriptors and processor time, under the names that every exporter gives them.
//! What the system does not tell is left out.

use super::page::{Kind, Page};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::fs;

/// What the process takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Process {
    resident_bytes: Option<u64>,
    open_descriptors: Option<u64>,
    most_descriptors: Option<u64>,
    processor_seconds: Option<f64>,
}

impl Process {
    /// Reads `/proc`: not for the runtime's own threads.
    pub(super) fn look() -> Process {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Process {
            resident_bytes: fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident),
            open_descriptors: open_descriptors(),
            most_descriptors: getrlimit(Resource::Nofile).current,
            processor_seconds: Some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9),
        }
    }

    pub(super) fn write(&self, page: &mut Page) {
        if let Some(bytes) = self.resident_bytes {
            page.family("process_resident_memory_bytes", Kind::Gauge, "Memory that the process holds").add(bytes);
        }
        if let Some(open) = self.open_descriptors {
            page.family("process_open_fds", Kind::Gauge, "Open descriptors").add(open);
        }
        if let Some(most) = self.most_descriptors {
            page.family("process_max_fds", Kind::Gauge, "Descriptors that the process may open").add(most);
        }
        if let Some(seconds) = self.processor_seconds {
            page.family("process_cpu_seconds_total", Kind::Counter, "Processor time").add(seconds);
        }
    }
}

/// Of `/proc/self/status`: `VmRSS:     1234 kB`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Newer kernels tell the number as the size of the folder; for older ones its entries are counted, our own look left out.
fn open_descriptors() -> Option<u64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.count().saturating_sub(1) as u64),
        known => Some(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        let first = Process::look();
        assert!(first.resident_bytes.is_some_and(|bytes| (1 << 20..1 << 40).contains(&bytes)), "{first:?}");
        assert!(first.processor_seconds.is_some_and(|seconds| seconds > 0.0), "{first:?}");
        // Other tests of this process open and close some at the same time.
        let held: Vec<fs::File> = (0..500).map(|_| fs::File::open("/proc/self/stat").expect("a file")).collect();
        let second = Process::look();
        assert!(second.open_descriptors > first.open_descriptors.map(|before| before + 250), "{first:?} {second:?}");
        drop(held);
        assert!(second.most_descriptors >= second.open_descriptors);
    }

    #[test]
    fn what_is_not_told_is_left_out() {
        assert_eq!(resident("Name:\tmusterd\nVmRSS:\t   2048 kB\nThreads:\t4\n"), Some(2048 * 1024));
        for status in ["", "VmRSS:\t many kB\n", "VmRSS: 7\n", "VmRSS: 99999999999999999999 kB\n"] {
            assert_eq!(resident(status), None, "{status}");
        }
        let mut page = Page::default();
        Process::default().write(&mut page);
        assert_eq!(page.into_text(), "");
    }
}
