//! The writer, with a file in the agent's place that is small enough to do it often.

use std::fs;
use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::spec::Spec;
use super::{archive, binary, digest, layer, layout, trial, verify};
use crate::scratch::Scratch;

const AGENT: &[u8] = b"#!/bin/sh\necho lb-agent 1.2.3\n";

fn spec() -> Spec {
    Spec {
        version: "1.2.3".to_owned(),
        revision: "abc".to_owned(),
    }
}

fn image() -> layout::Image {
    layout::Image::new(&spec(), AGENT).unwrap()
}

fn written() -> Scratch {
    let scratch = Scratch::new();
    image().write(scratch.path()).unwrap();
    scratch
}

/// The document that a descriptor names.
fn blob(scratch: &Scratch, descriptor: &Value) -> Vec<u8> {
    let name = descriptor["digest"].as_str().unwrap().replace(':', "/");
    fs::read(scratch.path().join("blobs").join(name)).unwrap()
}

#[test]
fn digests_are_those_of_the_standard() {
    // FIPS 180-2, appendix B.1.
    assert_eq!(
        digest::digest(b"abc"),
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[test]
fn what_is_written_is_a_valid_layout_and_names_the_image() {
    let scratch = written();
    assert_eq!(verify::misses(scratch.path()).unwrap(), [""; 0]);
    let index: Value = serde_json::from_slice(&fs::read(scratch.path().join("index.json")).unwrap()).unwrap();
    let named = &index["manifests"][0];
    assert_eq!(
        named["annotations"]["io.containerd.image.name"],
        "localhost/lb-agent:1.2.3"
    );
    let manifest: Value = serde_json::from_slice(&blob(&scratch, named)).unwrap();
    let config: Value = serde_json::from_slice(&blob(&scratch, &manifest["config"])).unwrap();
    assert_eq!(config["config"]["Entrypoint"], json!(["/lb-agent"]));
    assert_eq!(config["config"]["Cmd"], json!(["run"]));
    assert_eq!(
        config["config"]["Labels"]["org.opencontainers.image.revision"],
        "abc"
    );
    let docker: Value =
        serde_json::from_slice(&fs::read(scratch.path().join("manifest.json")).unwrap()).unwrap();
    for (path, descriptor) in [
        (&docker[0]["Config"], &manifest["config"]),
        (&docker[0]["Layers"][0], &manifest["layers"][0]),
    ] {
        let path = path.as_str().unwrap().replace("blobs/sha256/", "sha256:");
        assert_eq!(descriptor["digest"], *path);
    }
}

#[test]
fn the_same_files_make_the_same_image_at_any_time() {
    assert_eq!(image().digest(), image().digest());
    let other = layout::Image::new(&spec(), b"another").unwrap();
    assert_ne!(image().digest(), other.digest());
}

#[test]
fn a_layer_has_sorted_entries_without_times_or_owners() {
    let file = |path| layer::File {
        path,
        mode: 0o644,
        content: b"x",
    };
    let tar = layer::tar(&[file("b"), file("a/c"), file("a/b")]).unwrap();
    let mut names = Vec::new();
    for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
        assert_eq!((header.mtime().unwrap(), uid, gid), (0, 0, 0));
        names.push(entry.path().unwrap().to_string_lossy().into_owned());
    }
    assert_eq!(names, ["a/b", "a/c", "b"]);
    let gzip = layer::gzip(&tar).unwrap();
    assert_eq!(gzip[4..8], [0; 4], "RFC 1952: MTIME");
    let mut back = Vec::new();
    GzDecoder::new(gzip.as_slice()).read_to_end(&mut back).unwrap();
    assert_eq!(back, tar);
}

#[test]
fn a_blob_that_was_changed_cut_off_or_added_is_found() {
    let layer = |scratch: &Scratch| {
        let name = digest::hex(image().layer());
        scratch.path().join("blobs/sha256").join(name)
    };
    let flipped = written();
    let mut bytes = fs::read(layer(&flipped)).unwrap();
    bytes[9] ^= 1; // RFC 1952: OS, which changes nothing inside.
    fs::write(layer(&flipped), bytes).unwrap();
    let misses = verify::misses(flipped.path()).unwrap();
    assert!(
        misses.len() == 1 && misses[0].contains("has the digest"),
        "{misses:?}"
    );

    let longer = written();
    let mut bytes = fs::read(layer(&longer)).unwrap();
    bytes.push(0);
    fs::write(layer(&longer), bytes).unwrap();
    let misses = verify::misses(longer.path()).unwrap().join("\n");
    assert!(
        misses.contains("has the digest") && misses.contains("bytes, not"),
        "{misses}"
    );

    let more = written();
    more.write("blobs/sha256/0000", "?");
    let misses = verify::misses(more.path()).unwrap();
    assert!(
        misses.len() == 1 && misses[0].starts_with("4 blobs"),
        "{misses:?}"
    );
}

#[test]
fn the_one_file_holds_the_layout_and_nothing_else() {
    let (scratch, folder) = (written(), Scratch::new());
    let file = folder.path().join("image.tar");
    archive::write(scratch.path(), &file).unwrap();
    assert_eq!(archive::misses(scratch.path(), &file).unwrap(), [""; 0]);
    fs::remove_file(scratch.path().join("manifest.json")).unwrap();
    scratch.write("oci-layout", "{}");
    let misses = archive::misses(scratch.path(), &file).unwrap();
    assert_eq!(
        misses,
        [
            "manifest.json is not the layout's",
            "oci-layout is not the layout's"
        ]
    );
}

#[test]
fn the_program_of_a_layer_can_be_executed_where_it_is_unpacked() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    trial::unpack(image().layer(), scratch.path()).unwrap();
    let file = scratch.path().join("lb-agent");
    assert_eq!(fs::read(&file).unwrap(), AGENT);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn a_dynamic_program_is_told_by_what_loads_it() {
    // This test is one, unless it is linked statically itself.
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    let found = binary::interpreter(&own).unwrap();
    assert_eq!(found.is_none(), cfg!(target_feature = "crt-static"), "{found:?}");
    assert!(found.is_none_or(|loader| loader.contains("/ld-")));
    // The same without program headers: nothing loads it.
    let mut none = own.clone();
    none[56..58].fill(0);
    assert_eq!(binary::interpreter(&none).unwrap(), None);
    for length in [0, 4, 40, 100] {
        assert!(binary::interpreter(&own[..length]).is_err(), "{length} bytes");
    }
}
