//! A second instance of a program, on the live maps, with everything that writes left out.
//!
//! *Invariant*: nothing that packets pass through is changed: flows, affinity and counters are only read (the global
//! `DRY_RUN` of the object; the verifier removes what it switches off), and the memory that programs work in is its own.

use std::fs;

use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    programs::{Program, ProgramError, SchedClassifier},
};

use lb_common::abi::names;

use super::{LoadError, PinDirectory, loader::verify_one, object};

/// Maps that programs work in rather than read.
const OWN: [&str; 10] = [
    "workspace4",
    "workspace6",
    "hops4",
    "hops6",
    "whole",
    "held",
    "waiting",
    "fragment_id",
    "peers",
    // What is in it would be overwritten by loading.
    names::TRACE,
];
/// Room that a refusal may need beyond the packet.
const ROOM: usize = 256;
/// Words of `struct __sk_buff`, and where two of them are: the interfaces that the packet came in by and is on.
const CONTEXT: usize = 48;
const CAME_IN: usize = 9;
const DEVICE: usize = 10;

/// A program at TC that only reads.
#[derive(Debug)]
pub struct DryRun {
    ebpf: Ebpf,
    program: &'static str,
}

impl DryRun {
    /// Loads a program over the maps that are pinned.
    ///
    /// # Errors
    /// If there are none, or the kernel refuses the program.
    pub fn load(pins: &PinDirectory, program: &'static str) -> Result<Self, LoadError> {
        let object = object::embedded()?;
        let shapes = object::map_shapes(object, &std::collections::BTreeMap::new())?;
        let mut loader = EbpfLoader::new();
        loader.override_global("DRY_RUN", &2u8, true);
        for name in shapes.keys().filter(|name| !OWN.contains(&name.as_str())) {
            let pin = pins.map(name);
            if fs::exists(&pin).unwrap_or(false) {
                loader.map_pin_path(name, pin);
            }
        }
        let mut ebpf = loader.load(object).map_err(LoadError::Maps)?;
        let loaded: &mut Program = ebpf
            .program_mut(program)
            .ok_or(LoadError::MissingProgram(program))?;
        verify_one(loaded).map_err(|source| LoadError::Program {
            name: program,
            source,
        })?;
        Ok(Self { ebpf, program })
    }

    /// Has it see `frame` on the device `device`, which came in by the device `came_in` (0: by none). Gives the verdict,
    /// and the frame as it is then.
    ///
    /// # Errors
    /// If the kernel refuses to run it: the device is not there, for instance.
    pub fn run(&self, frame: &[u8], device: u32, came_in: u32) -> Result<(u32, Vec<u8>), ProgramError> {
        let program: &SchedClassifier = self
            .ebpf
            .program(self.program)
            .ok_or(ProgramError::UnexpectedProgramType)?
            .try_into()?;
        let mut words = [0u32; CONTEXT];
        words[CAME_IN] = came_in;
        words[DEVICE] = device;
        let mut out = vec![0; frame.len() + ROOM];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(bytemuck::bytes_of(&words)),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }
}
