//! The little of bpf(2) that the lab needs itself: a program that passes every packet, at a device's XDP hook.
//!
//! A veth device delivers what its other end sends from XDP only if it has a program of its own. Real network cards
//! need nothing like it.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Commands of bpf(2), and constants of its arguments (`linux/bpf.h`, `linux/if_link.h`).
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const LINK_CREATE: libc::c_long = 28;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_DRIVER_MODE: u32 = 1 << 2;

/// `r0 = XDP_PASS; exit`
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

#[repr(C)]
struct Link {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Puts the program on a device of the calling thread's network namespace, in the driver's mode, until the file
/// `pin` (on a BPF file system) is removed.
pub(crate) fn pass_at_xdp(ifindex: u32, pin: &Path) -> io::Result<()> {
    let load = Load {
        kind: PROG_TYPE_XDP,
        instructions: PASS.len() as u32,
        code: PASS.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        flags: XDP_HAS_FRAGS,
        name: *b"lab_pass\0\0\0\0\0\0\0\0",
        attach_type: ATTACH_XDP,
        ..Load::default()
    };
    let program = descriptor(bpf(PROG_LOAD, &load)?);
    let link = Link {
        program: program.as_raw_fd().cast_unsigned(),
        ifindex,
        attach_type: ATTACH_XDP,
        flags: XDP_DRIVER_MODE,
    };
    let link = descriptor(bpf(LINK_CREATE, &link)?);
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let pin = Pin {
        path: path.as_ptr() as u64,
        fd: link.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    bpf(OBJ_PIN, &pin).map(drop)
}

/// One call; whatever the argument points to is alive until it returns.
fn bpf<T>(command: libc::c_long, argument: &T) -> io::Result<i32> {
    // SAFETY: the argument is one of the structures above, of the size that is passed; its pointers lead to
    // instructions and strings that the callers hold.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(argument),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(result).expect("a descriptor, or zero"))
}

fn descriptor(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
