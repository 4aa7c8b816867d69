//! Docker and rootless Podman as Debian ships them, apart from the machine.
//!
//! [`alone`] starts the calling test again in mount, pid and network namespaces of its own. There
//! it may start an engine by hand, mount with shared propagation, and serve a repository on the
//! address of a bridge; all of that ends with the namespaces, however the test ends. Scripts are
//! given to a [`Shell`], as a user would type them, and are grouped in [`Checks`], because an engine
//! takes a second to start.
//!
//! | file | what it holds |
//! |---|---|
//! | `alone` | the namespaces, and the control groups that have to be removed after them |
//! | `checks` | named checks on one stage |
//! | `docker`, `podman` | the engines |
//! | `image` | root file systems of images, made from what is on this machine |
//! | `shell` | scripts, and what they said |
//! | `stage` | repository, server and program of one test |
//! | `user` | the user of rootless engines |

mod alone;
mod checks;
mod docker;
mod image;
mod podman;
mod shell;
mod stage;
mod user;

pub use alone::alone;
pub use checks::Checks;
pub use docker::Docker;
pub use image::Rootfs;
pub use podman::Podman;
pub use shell::{Said, Shell};
pub use stage::{FQRN, Stage, program, project};
pub use user::USER;
