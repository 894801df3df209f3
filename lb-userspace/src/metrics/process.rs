//! What the kernel knows of this process, under the names that every exporter uses.

use std::fs;

/// What `stat` counts times in, on every architecture that Linux runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process costs.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Process {
    /// Seconds of CPU time.
    pub cpu_seconds: f64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// When it started, in seconds since 1970.
    pub started: f64,
}

impl Process {
    /// This process. What cannot be read is zero.
    #[must_use]
    pub fn read() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
        let open_files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self {
            open_files: open_files as u64,
            ..Self::parse(&read("self/stat"), &read("self/status"), &read("stat"))
        }
    }

    /// From the texts of these files. proc(5): fields of `stat` are counted from the end of the name, which may
    /// hold anything.
    fn parse(stat: &str, status: &str, system: &str) -> Self {
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let field = |number: usize| -> f64 {
            fields
                .get(number - 3)
                .and_then(|text| text.parse().ok())
                .unwrap_or_default()
        };
        let resident_kib = (status.lines().find_map(|line| line.strip_prefix("VmRSS:")))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        // Not this moment less the uptime: that is another number each time, which looks like a restart.
        let booted: f64 = (system.lines().find_map(|line| line.strip_prefix("btime ")))
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or_default();
        Self {
            cpu_seconds: (field(14) + field(15)) / TICKS_PER_SECOND,
            resident_bytes: resident_kib.unwrap_or_default() * 1024,
            open_files: 0,
            started: booted + field(22) / TICKS_PER_SECOND,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 5000 9999 25 18446744073709551615 1";
        let status = "Name:\tx\nVmHWM:\t  200 kB\nVmRSS:\t     100 kB\n";
        let process = Process::parse(stat, status, "cpu  1 2 3\nintr 5\nbtime 900\nprocesses 4\n");
        let expected = Process {
            cpu_seconds: 2.0,
            resident_bytes: 102_400,
            open_files: 0,
            started: 950.0,
        };
        assert_eq!(process, expected);
        assert_eq!(Process::parse("", "", "").resident_bytes, 0);
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let process = Process::read();
        assert!(
            process.resident_bytes > 100_000 && process.open_files > 2,
            "{process:?}"
        );
        assert!(process.started > 1_500_000_000.0, "{process:?}");
        assert_eq!(process.started.to_bits(), Process::read().started.to_bits());
    }
}
