//! The directory in the BPF file system that carries maps and links from one process of the agent to the next.
//!
//! ```text
//! <bpffs>/<instance>/v<LAYOUT_VERSION>/<map>                   maps of this layout
//! <bpffs>/<instance>/v<LAYOUT_VERSION>/old<N>-<map>            tables of before, of other sizes, while they are copied
//! <bpffs>/<instance>/links/<device>-<ifindex>-<direction>      tcx links
//! <bpffs>/<instance>/filters/<device>-<ifindex>-<direction>/   empty: a clsact filter of ours is there
//! <bpffs>/<instance>/xdp/<device>-<ifindex>-<mode>             XDP links
//! <bpffs>/<instance>/sockets/<program>                         links to the node's cgroup
//! ```
//!
//! Links are outside the versioned directory: an agent with another map layout takes them over as well.
//! The file system refuses names with dots, and keeps no ordinary files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::{Map, MapData};
use lb_common::abi::LAYOUT_VERSION;

use super::{Direction, MapShape, XdpMode};

/// Prefix of a pin that is about to replace another.
const REPLACEMENT: &str = "new-";
/// The pins of a table that is being copied, and of those that were when a process ended, begin so.
const PREVIOUS: [&str; 4] = ["old0-", "old1-", "old2-", "old3-"];

/// The pins of one instance of the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinDirectory {
    root: PathBuf,
}

/// What cannot be done with a pin.
#[derive(Debug, thiserror::Error)]
pub enum PinDirectoryError {
    /// The instance's name cannot be a directory's name there.
    #[error("instance name `{0}`: use letters, digits, `-` and `_` (the BPF file system refuses dots)")]
    Instance(String),
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An object could not be pinned.
    #[error("cannot pin {path}: is this a BPF file system?")]
    Pin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: aya::pin::PinError,
    },
}

/// Identifies what hangs on a device.
pub(super) type Place = (u32, Direction);

/// The name of a map as a BPF file system takes it: without dots.
fn plain(name: &str) -> &str {
    name.strip_prefix(".data.").unwrap_or(name)
}

impl PinDirectory {
    /// The pins of `instance` below the BPF file system `bpffs`.
    ///
    /// # Errors
    /// If the instance's name is unusable.
    pub fn new(bpffs: &Path, instance: &str) -> Result<Self, PinDirectoryError> {
        let usable = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if instance.is_empty() || !instance.chars().all(usable) {
            return Err(PinDirectoryError::Instance(instance.to_owned()));
        }
        Ok(Self {
            root: bpffs.join(instance),
        })
    }

    /// Where a map of this layout is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(plain(name))
    }

    /// Makes the directories that do not exist yet.
    /// Whether programs are kept attached here: whatever serves goes on without a process.
    #[must_use]
    pub fn is_used(&self) -> bool {
        let directories = [self.links(), self.filters(), self.sockets(), self.xdp_links()];
        directories
            .iter()
            .any(|directory| names(directory).is_ok_and(|names| !names.is_empty()))
    }

    pub(super) fn create(&self) -> Result<(), PinDirectoryError> {
        [
            self.maps(),
            self.links(),
            self.filters(),
            self.xdp_links(),
            self.sockets(),
        ]
        .into_iter()
        .try_for_each(|directory| {
            fs::create_dir_all(&directory).map_err(failed("create directory", &directory))
        })
    }

    /// Removes everything, and with the links the programs from their devices.
    pub(super) fn remove(&self) -> Result<(), PinDirectoryError> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.root)(error)),
            _ => Ok(()),
        }
    }

    /// Whether a map of exactly this shape is pinned. The kernel would accept any map, and reading it with
    /// other sizes would corrupt memory or entries.
    pub(super) fn has_map(&self, name: &str, shape: &MapShape) -> bool {
        let Ok(map) = MapData::from_pin(self.map(name)) else {
            return false;
        };
        let Ok(info) = map.info() else { return false };
        let Ok(map_type) = info.map_type() else {
            return false;
        };
        *shape
            == MapShape {
                map_type: map_type as u32,
                key_size: info.key_size(),
                value_size: info.value_size(),
                max_entries: info.max_entries(),
                flags: info.map_flags(),
            }
    }

    /// Pins a map beside the one that it is to replace.
    pub(super) fn prepare_map(&self, name: &str, map: &Map) -> Result<(), PinDirectoryError> {
        let path = self.replacement(name);
        remove_file(&path)?;
        map.pin(&path)
            .map_err(|source| PinDirectoryError::Pin { path, source })
    }

    /// Puts a prepared map in place of what is pinned under its name: at no instant is there no pin.
    pub(super) fn publish_map(&self, name: &str) -> Result<(), PinDirectoryError> {
        let replacement = self.replacement(name);
        fs::rename(&replacement, self.map(name)).map_err(failed("rename", &replacement))
    }

    /// As [`Self::publish_map`]; what was pinned under the name stays findable, by [`Self::generations_before`].
    pub(super) fn publish_table(&self, name: &str) -> Result<(), PinDirectoryError> {
        let path = self.map(name);
        let mut places = PREVIOUS.iter().map(|prefix| self.map(&format!("{prefix}{name}")));
        let last = self.map(&format!("{}{name}", PREVIOUS[PREVIOUS.len() - 1]));
        let free = places.find(|place| !place.exists()).unwrap_or(last);
        match fs::rename(&path, &free) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("rename", &path)(error))?,
            _ => self.publish_map(name),
        }
    }

    /// Where the maps of other layouts are pinned, and of other sizes that are being copied: by name, for each generation.
    pub(super) fn generations_before(&self) -> Result<Vec<BTreeMap<String, PathBuf>>, PinDirectoryError> {
        let current = self.maps();
        let mut found = Vec::new();
        for prefix in PREVIOUS {
            let previous = |name: String| {
                let path = current.join(&name);
                Some((name.strip_prefix(prefix)?.to_owned(), path))
            };
            found.push(names(&current)?.into_iter().filter_map(previous).collect());
        }
        for directory in self.other_layouts()? {
            let names = names(&directory)?.into_iter();
            found.push(names.map(|name| (name.clone(), directory.join(name))).collect());
        }
        Ok(found)
    }

    fn other_layouts(&self) -> Result<Vec<PathBuf>, PinDirectoryError> {
        let version = |name: &String| {
            let number = name.strip_prefix('v').map(str::parse::<u32>);
            number.is_some_and(|number| number.is_ok_and(|number| number != LAYOUT_VERSION))
        };
        let names = names(&self.root)?.into_iter().filter(version);
        Ok(names.map(|name| self.root.join(name)).collect())
    }

    /// Removes pins of maps that this version of the agent does not have: of other names, or other layouts.
    pub(super) fn remove_other_maps(&self, wanted: &BTreeSet<String>) -> Result<(), PinDirectoryError> {
        let wanted: BTreeSet<_> = wanted.iter().map(|name| plain(name)).collect();
        for name in names(&self.maps())? {
            if !wanted.contains(name.as_str()) {
                remove_file(&self.map(&name))?;
            }
        }
        self.other_layouts()?
            .into_iter()
            .try_for_each(|directory| fs::remove_dir_all(&directory).map_err(failed("remove", &directory)))
    }

    /// Where the link of a device is to be pinned.
    pub(super) fn link(&self, device: &str, place: Place) -> PathBuf {
        self.links().join(pin_name(device, place.0, place.1.name()))
    }

    /// Where it is noted that a device has a clsact filter of ours.
    pub(super) fn filter(&self, device: &str, place: Place) -> PathBuf {
        self.filters().join(pin_name(device, place.0, place.1.name()))
    }

    /// Where the link of a device's XDP hook is to be pinned.
    pub(super) fn xdp(&self, device: &str, ifindex: u32, mode: XdpMode) -> PathBuf {
        self.xdp_links().join(pin_name(device, ifindex, mode.name()))
    }

    /// Where the link of a program to the node's cgroup is to be pinned.
    pub(super) fn socket(&self, program: &str) -> PathBuf {
        self.sockets().join(program)
    }

    /// The links of XDP hooks that are pinned.
    pub(super) fn pinned_xdp(&self) -> Result<BTreeMap<(u32, XdpMode), PathBuf>, PinDirectoryError> {
        let mode = |name: &str| {
            [XdpMode::Native, XdpMode::Generic]
                .into_iter()
                .find(|mode| mode.name() == name)
        };
        places(&self.xdp_links(), mode)
    }

    /// The links that are pinned.
    pub(super) fn pinned_links(&self) -> Result<BTreeMap<Place, PathBuf>, PinDirectoryError> {
        places(&self.links(), direction)
    }

    /// The clsact filters that were noted.
    pub(super) fn noted_filters(&self) -> Result<BTreeMap<Place, PathBuf>, PinDirectoryError> {
        places(&self.filters(), direction)
    }

    /// Removes a link's pin; the kernel detaches it with the last reference.
    pub(super) fn remove_link(path: &Path) -> Result<(), PinDirectoryError> {
        remove_file(path)
    }

    /// Where a map is pinned that is about to replace another.
    pub(super) fn replacement(&self, name: &str) -> PathBuf {
        self.map(&format!("{REPLACEMENT}{}", plain(name)))
    }

    fn maps(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    fn filters(&self) -> PathBuf {
        self.root.join("filters")
    }

    fn sockets(&self) -> PathBuf {
        self.root.join("sockets")
    }

    fn xdp_links(&self) -> PathBuf {
        self.root.join("xdp")
    }
}

/// Makes an error of a failed file operation.
pub(super) fn failed(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> PinDirectoryError + use<> {
    let path = path.to_owned();
    move |source| PinDirectoryError::Io { action, path, source }
}

fn pin_name(device: &str, ifindex: u32, hook: &str) -> String {
    // The device's name is for the reader; the index identifies it. VLAN devices have dots in theirs.
    format!("{}-{ifindex}-{hook}", device.replace('.', "_"))
}

fn parse_name<T>(name: &str, hook: impl Fn(&str) -> Option<T>) -> Option<(u32, T)> {
    let (rest, last) = name.rsplit_once('-')?;
    let (_, ifindex) = rest.rsplit_once('-')?;
    Some((ifindex.parse().ok()?, hook(last)?))
}

fn direction(name: &str) -> Option<Direction> {
    Direction::ALL.into_iter().find(|known| known.name() == name)
}

fn places<T: Ord>(
    directory: &Path,
    hook: impl Fn(&str) -> Option<T>,
) -> Result<BTreeMap<(u32, T), PathBuf>, PinDirectoryError> {
    let names = names(directory)?.into_iter();
    Ok(names
        .filter_map(|name| Some((parse_name(&name, &hook)?, directory.join(name))))
        .collect())
}

fn names(directory: &Path) -> Result<Vec<String>, PinDirectoryError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("list", directory))?,
    };
    entries
        .map(|entry| {
            Ok(entry
                .map_err(failed("list", directory))?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

fn remove_file(path: &Path) -> Result<(), PinDirectoryError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_survives_the_way_through_its_name() {
        for (device, place) in [
            ("eth0", (2, Direction::Ingress)),
            ("bond0.100", (17, Direction::Egress)),
            ("a-b-c", (4_000_000_000, Direction::Ingress)),
        ] {
            let name = pin_name(device, place.0, place.1.name());
            assert!(!name.contains('.'), "{name}: the BPF file system refuses dots");
            assert_eq!(parse_name(&name, direction), Some(place), "{name}");
        }
        for foreign in ["", "eth0", "eth0-2", "eth0-x-ingress", "eth0-2-sideways"] {
            assert_eq!(parse_name(foreign, direction), None, "{foreign}");
        }
    }

    #[test]
    fn instance_name_that_the_file_system_refuses_is_refused_at_once() {
        for name in ["", "a.b", "a/b", ".."] {
            assert!(PinDirectory::new(Path::new("/nowhere"), name).is_err(), "{name}");
        }
        assert!(PinDirectory::new(Path::new("/nowhere"), "node-1_a").is_ok());
    }
}
