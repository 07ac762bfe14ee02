//! A seccomp filter that refuses io_uring, as container runtimes do.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// io_uring_setup, io_uring_enter, io_uring_register: the same numbers on every architecture we run on.
const IO_URING: [u32; 3] = [425, 426, 427];

/// The command's process gets EPERM for every call of io_uring.
pub fn refuse_io_uring(command: &mut Command) {
    // SAFETY: the closure makes two system calls on memory of its own, allocates nothing, and takes no lock.
    unsafe { command.pre_exec(install) };
}

/// Whether the kernel lets this process have io_uring.
pub fn has_io_uring() -> bool {
    // The size of `struct io_uring_params`, all zero: a plain ring.
    let mut parameters = [0u32; 30];
    // SAFETY: the kernel writes the parameters, which live until it returns; the descriptor is ours alone to close.
    unsafe {
        let ring = libc::syscall(libc::c_long::from(IO_URING[0]), 1, parameters.as_mut_ptr());
        ring >= 0 && libc::close(ring as libc::c_int) == 0
    }
}

fn install() -> io::Result<()> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 3, 0, IO_URING[0]),
        step(JUMP_IF_EQUAL, 2, 0, IO_URING[1]),
        step(JUMP_IF_EQUAL, 1, 0, IO_URING[2]),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain system calls; `program` and what it points to live until they return.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The command's process dies with the thread that started it, even when that is killed.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: one system call without memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    };
}
