//! What a server that dies of a defect leaves in its log: where it was.
//!
//! For a signal only what is allowed in its handler is done: no memory is allocated, no lock taken.
//! Nothing is unwound; the stack is looked through for addresses of this program's code, most of which
//! are those to which functions would have returned. For a panic there are names, in programs that have
//! their symbols.

use std::backtrace::Backtrace;
use std::fmt::Write as _;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The signals of defects.
const SIGNALS: [Signal; 5] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT];
/// Bytes of the stack that are looked through: some dozen functions.
const MAX_STACK: usize = 16 << 10;
/// Words that are read at a time; the handler's own stack is small.
const WORDS: usize = 64;
/// Addresses, and names, that are written.
const MAX_SHOWN: usize = 40;

/// Where the program is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Image {
    /// Its begin, which addresses are counted from.
    base: usize,
    /// Its code.
    code: (usize, usize),
}

static IMAGE: OnceLock<Image> = OnceLock::new();
static IS_DYING: AtomicBool = AtomicBool::new(false);

/// Lets this process tell where it died. What is refused is not needed.
pub(super) fn watch() {
    std::panic::set_hook(Box::new(told));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Some(image) = image_at(&maps, watch as fn() as usize) else { return };
    if IMAGE.set(image).is_err() {
        return;
    }
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::SigAction(died), flags, SigSet::empty());
    for signal in SIGNALS {
        // SAFETY: the handler only makes system calls and reads its arguments and two statics that
        // were set before.
        if let Err(error) = unsafe { sigaction(signal, &action) } {
            tracing::debug!(%signal, %error, "a crash would not be told of");
        }
    }
}

fn told(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("(no message)");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let mut trace = names(&Backtrace::force_capture().to_string());
    if trace.is_empty() {
        // Without symbols.
        trace = IMAGE.get().map(|image| addresses(*image)).unwrap_or_default();
    }
    let thread = thread.name().unwrap_or("?");
    tracing::error!(thread, trace, "panicked at {location}: {message}");
}

/// Returns the functions of a trace, innermost first.
fn names(trace: &str) -> String {
    let functions = trace.lines().filter_map(|line| {
        let (number, name) = line.trim_start().split_once(": ")?;
        number.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
    });
    // What makes the trace, and what panics, is always the same.
    let ours = functions.skip_while(|name| !name.contains("rust_begin_unwind")).skip(1);
    let shown: Vec<_> =
        ours.filter(|name| !name.starts_with("<unknown>")).take(MAX_SHOWN).collect();
    shown.join(" < ")
}

/// Returns what is on the stack of this thread, likely callers first.
#[inline(never)]
fn addresses(image: Image) -> String {
    let here = 0_usize;
    let mut text = String::new();
    trace(image, 0, (&raw const here).addr(), |offset| {
        let _ = write!(text, " +{offset:#x}");
    });
    text.trim_start().to_owned()
}

/// Finds in /proc/self/maps the program that an address belongs to.
fn image_at(maps: &str, address: usize) -> Option<Image> {
    // BEGIN-END PERMISSIONS OFFSET DEVICE INODE PATH
    let parsed = maps.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (begin, end) = words.next()?.split_once('-')?;
        let hex = |text| usize::from_str_radix(text, 16).ok();
        let file = (words.nth(2)?, words.next()?);
        Some((hex(begin)?, hex(end)?, file))
    });
    let all: Vec<_> = parsed.collect();
    let (begin, end, file) =
        *all.iter().find(|(begin, end, _)| (*begin..*end).contains(&address))?;
    let base = all.iter().filter(|(_, _, other)| *other == file).map(|(begin, ..)| *begin).min()?;
    Some(Image { base, code: (begin, end) })
}

/// A line without memory of its own.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Line {
    fn text(&mut self, text: &[u8]) {
        for &byte in text {
            if self.length == self.bytes.len() {
                self.flush();
            }
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
    }

    fn number(&mut self, number: usize, base: usize) {
        let mut digits = [0; 20];
        let (mut rest, mut first) = (number, digits.len());
        loop {
            first -= 1;
            digits[first] = b"0123456789abcdef"[rest % base];
            rest /= base;
            if rest == 0 || first == 0 {
                break;
            }
        }
        self.text(&digits[first..]);
    }

    fn flush(&mut self) {
        // SAFETY: the bytes are ours and initialised. There is nobody to tell of a failure.
        let _ =
            unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.length) };
        self.length = 0;
    }
}

extern "C" fn died(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if !IS_DYING.swap(true, Ordering::SeqCst) {
        // SAFETY: the kernel gives both to a handler with SA_SIGINFO, and they live as long as it.
        let (address, (at, stack)) = unsafe {
            ((*info).si_addr() as usize, registers(&*context.cast::<libc::ucontext_t>()))
        };
        // SAFETY: takes nothing and touches no memory.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        let mut line = Line { bytes: [0; 256], length: 0 };
        line.text(b"cvmfs-fuse ");
        line.text(crate::VERSION.as_bytes());
        line.text(b" crashed: signal ");
        line.number(signal.unsigned_abs() as usize, 10);
        line.text(b", address 0x");
        line.number(address, 16);
        line.text(b", thread ");
        line.number(usize::try_from(thread).unwrap_or_default(), 10);
        line.text(b", in the program at");
        if let Some(image) = IMAGE.get() {
            trace(*image, at, stack, |offset| {
                line.text(b" +0x");
                line.number(offset, 16);
            });
        }
        line.text(b"\n");
        line.flush();
    }
    // The action is the default one again: it is delivered when this handler returns.
    // SAFETY: raise(3) is async-signal-safe.
    unsafe { libc::raise(signal) };
}

/// Looks through a stack for addresses of code, and shows each with that of the fault as an offset.
fn trace(
    Image { base, code: (begin, end) }: Image,
    at: usize,
    stack: usize,
    mut found: impl FnMut(usize),
) {
    let mut shown = 0;
    let mut show = |address: usize| {
        if (begin..end).contains(&address) && shown < MAX_SHOWN {
            shown += 1;
            found(address - base);
        }
    };
    show(at);
    let mut words = [0_usize; WORDS];
    let mut from = stack & !(size_of::<usize>() - 1);
    let limit = from.saturating_add(MAX_STACK);
    while from < limit {
        let size = size_of_val(&words);
        let to = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size };
        let source = libc::iovec { iov_base: from as *mut libc::c_void, iov_len: size };
        // SAFETY: the kernel writes into our array only, and tells instead of faulting where there
        // is no stack.
        let read = unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &source, 1, 0) };
        let Ok(read) = usize::try_from(read) else { return };
        let count = (read / size_of::<usize>()).min(WORDS);
        words[..count].iter().copied().for_each(&mut show);
        if count < WORDS {
            return;
        }
        from = from.saturating_add(size);
    }
}

/// Returns where the thread was, and where its stack is.
#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> (usize, usize) {
    let register = |number: libc::c_int| {
        let values = &context.uc_mcontext.gregs;
        let value = usize::try_from(number).ok().and_then(|number| values.get(number));
        value.map_or(0, |value| usize::try_from(value.cast_unsigned()).unwrap_or_default())
    };
    (register(libc::REG_RIP), register(libc::REG_RSP))
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> (usize, usize) {
    (context.uc_mcontext.pc as usize, context.uc_mcontext.sp as usize)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn registers(_: &libc::ucontext_t) -> (usize, usize) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_in_memory() {
        let maps = "\
            55d0-55d4 r--p 00000000 00:1e 17 /usr/bin/cvmfs-fuse\n\
            55d4-55e0 r-xp 00004000 00:1e 17 /usr/bin/cvmfs-fuse (deleted)\n\
            7f00-7f10 r-xp 00000000 00:1e 18 /lib/libc.so\n\
            7ff0-7fff rw-p 00000000 00:00 0 [stack]\n";
        assert_eq!(image_at(maps, 0x55d8), Some(Image { base: 0x55d0, code: (0x55d4, 0x55e0) }));
        assert_eq!(image_at(maps, 0x1), None);
        let own = std::fs::read_to_string("/proc/self/maps").unwrap();
        let here = watch as fn() as usize;
        let image = image_at(&own, here).unwrap();
        assert!(image.base < here && image.code.0 <= here && here < image.code.1);
        assert!(addresses(image).split(' ').count() > 5, "{}", addresses(image));
    }

    #[test]
    fn a_trace_names_functions_from_the_panic_on() {
        let trace = std::panic::catch_unwind(|| {
            let before = std::panic::take_hook();
            static TRACE: parking_lot::Mutex<String> = parking_lot::Mutex::new(String::new());
            std::panic::set_hook(Box::new(|_| {
                *TRACE.lock() = names(&Backtrace::force_capture().to_string());
            }));
            let _ = std::panic::catch_unwind(|| panic!("on purpose"));
            std::panic::set_hook(before);
            TRACE.lock().clone()
        });
        let trace = trace.unwrap();
        assert!(trace.contains("a_trace_names_functions"), "{trace}");
        assert!(!trace.contains("force_capture") && trace.contains(" < "), "{trace}");
    }
}
