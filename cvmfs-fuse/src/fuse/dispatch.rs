//! Poll once, then hand over.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cvmfs_core::share::{self, Owner};
use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tracing::Instrument as _;

use super::interrupt::interrupted;
use crate::fs::FsError;

/// Longest life of a request that had to wait; then its caller gets EIO.
///
/// Only a net below the tighter time limits of the downloads: a file of many chunks may rightly
/// need several of them one after the other, so that a request lost in our own code does not leave
/// a process behind that waits for ever. Where reads may wait for the network there is none;
/// interruptions end them.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// What the kernel asked for; named in every log line about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Name of the request, e.g. `lookup`.
    pub name: &'static str,
    /// Inode it is about (the directory, for a lookup).
    pub ino: u64,
    /// Thread that asked; 0 if it is in a pid namespace we cannot see.
    pub pid: u32,
    /// User who asked, out of whose shares of turns the request is worked on.
    pub uid: u32,
}

impl Operation {
    /// Works on the request until it is done, or until its caller is interrupted. The work of
    /// others for the same object goes on.
    pub async fn unless_interrupted<T>(
        self,
        work: impl Future<Output = Result<T, FsError>>,
    ) -> Result<T, FsError> {
        tokio::select! {
            biased;
            done = work => done,
            () = interrupted(self.pid) => Err(FsError::Interrupted),
        }
    }
}

/// Runs requests.
///
/// The number of waiting requests is not limited here, but it is bounded: each one belongs to a
/// blocked thread of a caller, or to the kernel's background queue (`max_background`).
#[derive(Debug)]
pub struct Dispatcher {
    runtime: Handle,
    deadline: Duration,
    panics: AtomicU64,
}

impl Dispatcher {
    /// Hands waiting requests to `runtime` and gives them up after `deadline`.
    pub fn new(runtime: Handle, deadline: Duration) -> Self {
        Self { runtime, deadline, panics: AtomicU64::new(0) }
    }

    /// Returns how many requests ended in a panic on the worker threads.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Runs a request that may have to wait.
    ///
    /// The future owns the reply: if it panics or outlives the deadline it is dropped, and a
    /// dropped reply is an EIO.
    pub fn run<F>(&self, operation: Operation, request: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Operation { name, ino, pid, uid } = operation;
        let span = tracing::debug_span!("request", op = name, ino, pid);
        let request = share::scope(Owner::User(uid), request);
        let mut request = Box::pin(AssertUnwindSafe(request).catch_unwind().instrument(span));
        let first = {
            // Timers and spawned tasks of the first poll need to know the runtime.
            let _context = self.runtime.enter();
            // No waker is needed: whoever is handed a pending request polls it anew.
            request.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        match first {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(panic)) => {
                self.panics.fetch_add(1, Ordering::Relaxed);
                log_panic(operation, panic.as_ref());
            }
            Poll::Pending => {
                let deadline = self.deadline;
                // Detached on purpose: the deadline ends it, and so does the end of the runtime.
                drop(self.runtime.spawn(async move {
                    match tokio::time::timeout(deadline, request).await {
                        Ok(Ok(())) => {}
                        Ok(Err(panic)) => log_panic(operation, panic.as_ref()),
                        Err(_) => tracing::error!(
                            op = name,
                            ino,
                            pid,
                            "request given up after {} s",
                            deadline.as_secs()
                        ),
                    }
                }));
            }
        }
    }

    /// Runs a request that never waits.
    pub fn now(&self, operation: Operation, request: impl FnOnce()) {
        let Operation { name, ino, pid, .. } = operation;
        let _span = tracing::debug_span!("request", op = name, ino, pid).entered();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(request)) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            log_panic(operation, panic.as_ref());
        }
    }
}

fn log_panic(operation: Operation, panic: &(dyn Any + Send)) {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)");
    tracing::error!(
        op = operation.name,
        ino = operation.ino,
        pid = operation.pid,
        panic = message,
        "defect in this program: request ended, mount goes on; please report"
    );
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::{Arc, mpsc};
    use std::thread::ThreadId;

    use tokio::io::AsyncReadExt as _;
    use tokio::runtime::Runtime;
    use tokio::sync::Semaphore;

    use super::*;

    const OPERATION: Operation = Operation { name: "test", ino: 7, pid: 1, uid: 7 };
    const LIMIT: Duration = Duration::from_secs(20);

    /// Stands for fuser's reply: tells how its request ended, `lost` if it was dropped unused.
    struct Reply {
        sender: Option<mpsc::Sender<(&'static str, ThreadId)>>,
    }

    impl Reply {
        fn pair() -> (Self, mpsc::Receiver<(&'static str, ThreadId)>) {
            let (sender, receiver) = mpsc::channel();
            (Self { sender: Some(sender) }, receiver)
        }

        fn send(mut self, word: &'static str) {
            let _ = self.sender.take().unwrap().send((word, std::thread::current().id()));
        }
    }

    impl Drop for Reply {
        fn drop(&mut self) {
            if let Some(sender) = self.sender.take() {
                let _ = sender.send(("lost", std::thread::current().id()));
            }
        }
    }

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    #[test]
    fn ready_requests_end_on_the_calling_thread() {
        let runtime = runtime();
        let dispatcher = Dispatcher::new(runtime.handle().clone(), REQUEST_DEADLINE);
        let (reply, answer) = Reply::pair();
        dispatcher.run(OPERATION, async move { reply.send("done") });
        assert_eq!(answer.try_recv().unwrap(), ("done", std::thread::current().id()));
    }

    #[test]
    fn fifty_waiting_requests_end_after_the_hand_over() {
        let runtime = runtime();
        let dispatcher = Dispatcher::new(runtime.handle().clone(), REQUEST_DEADLINE);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let answers: Vec<_> = (0..50)
            .map(|i| {
                let (reply, answer) = Reply::pair();
                let gate = Arc::clone(&gate);
                match i % 3 {
                    0 => dispatcher.run(OPERATION, async move {
                        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                        let mut word = [0; 2];
                        stream.read_exact(&mut word).await.unwrap();
                        assert_eq!(&word, b"hi");
                        reply.send("socket");
                    }),
                    1 => dispatcher.run(OPERATION, async move {
                        let _permit = gate.acquire().await.unwrap();
                        reply.send("semaphore");
                    }),
                    _ => dispatcher.run(OPERATION, async move {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        reply.send("timer");
                    }),
                }
                answer
            })
            .collect();
        // All fifty wait now; only then do socket and semaphore become ready.
        gate.add_permits(1);
        for _ in (0..50).filter(|i| i % 3 == 0) {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"hi").unwrap();
            let _ = stream.read(&mut [0]);
        }
        let here = std::thread::current().id();
        for (i, answer) in answers.iter().enumerate() {
            let (word, thread) = answer.recv_timeout(LIMIT).unwrap();
            assert_eq!(word, ["socket", "semaphore", "timer"][i % 3]);
            assert_ne!(thread, here);
        }
    }

    #[test]
    fn a_panic_ends_one_request() {
        let runtime = runtime();
        let dispatcher = Dispatcher::new(runtime.handle().clone(), REQUEST_DEADLINE);
        let (first, first_answer) = Reply::pair();
        dispatcher.run(OPERATION, async move {
            let _reply = first;
            panic!("in the first poll");
        });
        assert_eq!(first_answer.recv_timeout(LIMIT).unwrap().0, "lost");
        assert_eq!(dispatcher.panics(), 1);

        let (later, later_answer) = Reply::pair();
        dispatcher.run(OPERATION, async move {
            let _reply = later;
            tokio::task::yield_now().await;
            panic!("in a later poll: {}", 1);
        });
        assert_eq!(later_answer.recv_timeout(LIMIT).unwrap().0, "lost");

        dispatcher.now(OPERATION, || panic!("without a future"));
        assert_eq!(dispatcher.panics(), 2);

        let (last, last_answer) = Reply::pair();
        dispatcher.run(OPERATION, async move {
            tokio::task::yield_now().await;
            last.send("alive");
        });
        assert_eq!(last_answer.recv_timeout(LIMIT).unwrap().0, "alive");
    }

    #[test]
    fn a_request_that_never_ends_is_given_up() {
        let runtime = runtime();
        let dispatcher = Dispatcher::new(runtime.handle().clone(), Duration::from_millis(10));
        let (reply, answer) = Reply::pair();
        dispatcher.run(OPERATION, async move {
            std::future::pending::<()>().await;
            reply.send("never");
        });
        assert_eq!(answer.recv_timeout(LIMIT).unwrap().0, "lost");
    }

    #[test]
    fn requests_after_the_runtime_end_are_lost_and_do_not_hang() {
        let runtime = runtime();
        let dispatcher = Dispatcher::new(runtime.handle().clone(), REQUEST_DEADLINE);
        runtime.shutdown_background();
        let (reply, answer) = Reply::pair();
        dispatcher.run(OPERATION, async move {
            tokio::task::yield_now().await;
            reply.send("never");
        });
        assert_eq!(answer.recv_timeout(LIMIT).unwrap().0, "lost");
    }
}
