//! Frames as a capture file that tcpdump and Wireshark read (the classic format, link type Ethernet).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::{env, format, process, string::String};

const MAGIC: u32 = 0xa1b2_c3d4;
const VERSION: [u16; 2] = [2, 4];
const SNAPLEN: u32 = 65_535;
const LINKTYPE_ETHERNET: u32 = 1;

/// Writes a capture; the frames are one second apart, starting at zero.
///
/// # Errors
/// Those of the writer.
pub fn write(mut out: impl Write, frames: &[&[u8]]) -> io::Result<()> {
    out.write_all(&MAGIC.to_ne_bytes())?;
    for part in VERSION {
        out.write_all(&part.to_ne_bytes())?;
    }
    // Time zone, accuracy of times, longest frame, link type.
    for word in [0, 0, SNAPLEN, LINKTYPE_ETHERNET] {
        out.write_all(&word.to_ne_bytes())?;
    }
    for (second, frame) in (0u32..).zip(frames) {
        let length = frame.len() as u32;
        for word in [second, 0, length, length] {
            out.write_all(&word.to_ne_bytes())?;
        }
        out.write_all(frame)?;
    }
    out.flush()
}

/// Saves a capture in the directory for temporary files and says where. Characters of `name` that are
/// neither letters nor digits become hyphens.
///
/// # Errors
/// Those of the file system.
pub fn save(name: &str, frames: &[&[u8]]) -> io::Result<PathBuf> {
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let path = env::temp_dir().join(format!("lb-{name}-{}.pcap", process::id()));
    write(BufWriter::new(File::create(&path)?), frames)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_capture_has_a_file_header_and_a_header_for_each_frame() {
        let mut bytes = Vec::new();
        write(&mut bytes, &[&[1, 2, 3], &[]]).expect("memory can be written");
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
        let mut expected = words(&[0xa1b2_c3d4]);
        expected.extend(2u16.to_ne_bytes());
        expected.extend(4u16.to_ne_bytes());
        expected.extend(words(&[0, 0, 65_535, 1, 0, 0, 3, 3]));
        expected.extend([1, 2, 3]);
        expected.extend(words(&[1, 0, 0, 0]));
        assert_eq!(bytes, expected);
    }
}
