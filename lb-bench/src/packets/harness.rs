//! The bench's own programs, and how a program is run and timed.

use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions, TestRunResult,
    maps::{Array, HashMap, MapData, ProgramArray},
    programs::{Program, ProgramFd, Xdp, XdpMode},
};
use lb_common::abi::{
    Address, Backend, Family as Typed, Frontend, FrontendKey, Protocol, ROWS_PER_ELEMENT, Rows, V4, V6, names,
};

use super::{
    case::At,
    cluster::SERVICES,
    family::{Family, PORT, TARGET},
    flows::{self, FlowTable},
    place::UPLINK,
};
use crate::{
    processor,
    settings::{CLIENT, MASK, MODE, NEXT, WORDS},
};

/// The bench's own object in the kernel.
pub(crate) struct Harness {
    ebpf: Ebpf,
    settings: Array<MapData, [u64; WORDS]>,
    targets: [ProgramArray<MapData>; 2],
    v4: Box<dyn FlowTable>,
    v6: Box<dyn FlowTable>,
}

/// A packet on its way in.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) frame: Vec<u8>,
    /// Interface index of the device it is on.
    pub(crate) device: u32,
    /// TC: of the device it came in by; 0: this node has sent it.
    pub(crate) from: u32,
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Output {
    pub(crate) verdict: i32,
    pub(crate) frame: Vec<u8>,
}

impl Harness {
    pub(crate) fn load(object: &Path, flows: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for name in names::FLOWS {
            loader.map_max_entries(name, flows);
        }
        let mut ebpf = loader
            .load_file(object)
            .with_context(|| format!("the kernel refuses the maps of {}", object.display()))?;
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::Xdp(xdp) => xdp.load(),
                Program::SchedClassifier(tc) => tc.load(),
                _ => continue,
            }
            .with_context(|| format!("the kernel refuses {name}"))?;
        }
        // A queue can be named in the context of a run only while the device has a program.
        let empty: &mut Xdp = ebpf
            .program_mut("empty_xdp")
            .context("no empty_xdp")?
            .try_into()?;
        empty.attach(UPLINK, XdpMode::Driver)?;
        for family in Family::BOTH {
            match family {
                Family::V4 => fill::<V4>(&mut ebpf, family)?,
                Family::V6 => fill::<V6>(&mut ebpf, family)?,
            }
        }
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let mut rows: Array<_, Rows> = take("rows")?.try_into()?;
        for element in 0..rows.len() {
            let row = |row| ((element as usize * ROWS_PER_ELEMENT + row) % 10) as u16;
            rows.set(
                element,
                Rows {
                    rows: std::array::from_fn(row),
                },
                0,
            )?;
        }
        Ok(Self {
            settings: take("settings")?.try_into()?,
            targets: [take("xdp_target")?.try_into()?, take("tc_target")?.try_into()?],
            v4: flows::take(&mut ebpf, Family::V4)?,
            v6: flows::take(&mut ebpf, Family::V6)?,
            ebpf,
        })
    }

    /// A family's flow table of the floors.
    pub(crate) fn flows(&mut self, family: Family) -> &mut dyn FlowTable {
        match family {
            Family::V4 => &mut *self.v4,
            Family::V6 => &mut *self.v6,
        }
    }

    /// One of the bench's own programs.
    pub(crate) fn program(&self, name: &str) -> Result<&Program> {
        self.ebpf
            .program(name)
            .with_context(|| format!("the object has no {name}"))
    }

    /// Makes `restore` write `frame` and choose flows by `mode`.
    pub(crate) fn prepare(
        &mut self,
        family: Family,
        frame: &[u8],
        mode: u64,
        next: u64,
        mask: u64,
    ) -> Result<()> {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(frame[..family.template()].chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into()?);
        }
        words[MODE] = mode;
        words[NEXT] = next;
        words[MASK] = mask;
        words[CLIENT] = u64::from(family.first_client_bits());
        Ok(self.settings.set(0, words, 0)?)
    }

    /// Makes `restore` jump to this program.
    pub(crate) fn aim(&mut self, at: At, program: &ProgramFd) -> Result<()> {
        Ok(self.targets[at as usize].set(0, program, 0)?)
    }
}

/// A handle to a loaded program, to be jumped to.
pub(crate) fn handle(program: &Program) -> Result<ProgramFd> {
    let fd = match program {
        Program::Xdp(xdp) => xdp.fd()?,
        Program::SchedClassifier(tc) => tc.fd()?,
        _ => bail!("a program of a type that is not measured"),
    };
    Ok(fd.try_clone()?)
}

/// Runs a program, once.
pub(crate) fn once(program: &Program, input: &Input) -> Result<Output> {
    let mut frame = vec![0; input.frame.len() + 256];
    let run = test_run(program, input, Some(&mut frame), 1)?;
    frame.truncate(run.data_size_out as usize);
    Ok(Output {
        verdict: run.return_value as i32,
        frame,
    })
}

/// Runs a program so often; the processor's time for one run in nanoseconds, and the last verdict.
pub(crate) fn time(program: &Program, input: &Input, repeat: u32) -> Result<(f64, i32)> {
    let before = processor::time()?;
    let run = test_run(program, input, None, repeat)?;
    let spent = processor::time()? - before;
    Ok((
        spent.as_nanos() as f64 / f64::from(repeat),
        run.return_value as i32,
    ))
}

fn test_run(program: &Program, input: &Input, out: Option<&mut [u8]>, repeat: u32) -> Result<TestRunResult> {
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_ne_bytes()).collect() };
    let ctx = match program {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        Program::Xdp(_) => words(&[0, input.frame.len() as u32, 0, input.device, 0, 0]),
        // `struct __sk_buff`: ingress_ifindex is its tenth word, ifindex the next.
        _ => {
            let mut skb = [0; 48];
            skb[9] = input.from;
            skb[10] = input.device;
            words(&skb)
        }
    };
    let options = TestRunOptions {
        data_in: Some(&input.frame),
        data_out: out,
        ctx_in: Some(&ctx),
        repeat,
        ..TestRunOptions::default()
    };
    match program {
        Program::Xdp(xdp) => xdp.test_run(options),
        Program::SchedClassifier(tc) => tc.test_run(options),
        _ => bail!("a program of a type that is not measured"),
    }
    .context("the kernel refuses to run a program")
}

/// The floors' maps of a family, as full as ours.
fn fill<F: Typed>(ebpf: &mut Ebpf, family: Family) -> Result<()>
where
    F::Addr: aya::Pod,
    FrontendKey<F::Addr>: aya::Pod,
    Backend<F::Addr>: aya::Pod,
{
    let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("no map {name}"));
    let mut addresses: HashMap<_, F::Addr, Address> = take(names::ADDRESSES[F::INDEX])?.try_into()?;
    let mut frontends: HashMap<_, FrontendKey<F::Addr>, Frontend> =
        take(names::FRONTENDS[F::INDEX])?.try_into()?;
    for number in 0..SERVICES {
        for ip in [family.cluster_ip(number), family.balancer(number)] {
            let address = F::from_ip(ip).context("an address of another family")?;
            addresses.insert(address, Address { flags: Address::VIP }, 0)?;
            let key = FrontendKey {
                address,
                port: PORT,
                protocol: Protocol::Tcp as u8,
                reserved: 0,
            };
            frontends.insert(key, Frontend::default(), 0)?;
        }
    }
    let mut backends: Array<_, Backend<F::Addr>> = take(names::BACKENDS[F::INDEX])?.try_into()?;
    for number in 0..10 {
        let backend = Backend {
            address: F::from_ip(family.pod(1, 2 + number)).context("an address of another family")?,
            port: TARGET,
            flags: 0,
        };
        backends.set(number, backend, 0)?;
    }
    Ok(())
}
