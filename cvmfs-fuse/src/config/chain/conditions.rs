//! Conditions: `[ ... ]` and `test`.

use std::path::Path;

use super::evaluate::{Author, Run, Stop};
use super::tree::Kind;
use super::words::Word;

/// Words of one condition: real ones have three to seven. It also bounds how deep `!`, `-a` and `-o` nest.
const MAX_FIELDS: usize = 64;

impl Run<'_> {
    /// `[ ... ]`.
    pub(super) fn test(&mut self, name: &str, words: &[Word], line: u32) -> Result<bool, Stop> {
        let mut fields = Vec::new();
        for word in words {
            let Some(more) = self.fields(word, line)? else { return Ok(false) };
            fields.extend(more);
            if fields.len() > MAX_FIELDS {
                return Err(
                    self.exceed(line, format!("a condition of more than {MAX_FIELDS} words"))
                );
            }
        }
        if name == "[" && fields.pop().as_deref() != Some("]") {
            self.remark(line, "a [ without its ]");
            return Ok(false);
        }
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        Ok(self.condition(&fields).unwrap_or_else(|| {
            self.remark(line, format!("a condition that is not understood: {}", fields.join(" ")));
            false
        }))
    }

    fn condition(&self, fields: &[&str]) -> Option<bool> {
        match *fields {
            [] => Some(false),
            [one] => Some(!one.is_empty()),
            ["!", one] => Some(one.is_empty()),
            ["-n", one] => Some(!one.is_empty()),
            ["-z", one] => Some(one.is_empty()),
            // An empty name is no file; the directory joined with it would be one.
            ["-e" | "-f" | "-d" | "-r" | "-s" | "-L" | "-h" | "-x" | "-w", ""] => Some(false),
            [test @ ("-e" | "-f" | "-d" | "-r" | "-s" | "-L" | "-h" | "-x" | "-w"), one] => {
                let path = self.file.parent().unwrap_or(Path::new("/")).join(one);
                Some(match self.author {
                    Author::Machine => is_so(test, &path),
                    // It learns nothing about files of the machine.
                    Author::Repository => self.is_so_inside(test, &path),
                })
            }
            [_, _] => None,
            [left, "=" | "==", right] => Some(left == right),
            [left, "!=", right] => Some(left != right),
            [left, operator @ ("-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge"), right] => {
                let (left, right) = (left.parse::<i64>().ok()?, right.parse::<i64>().ok()?);
                Some(match operator {
                    "-eq" => left == right,
                    "-ne" => left != right,
                    "-lt" => left < right,
                    "-le" => left <= right,
                    "-gt" => left > right,
                    _ => left >= right,
                })
            }
            ["!", ref rest @ ..] => self.condition(rest).map(|found| !found),
            _ => {
                let at = |sign| fields.iter().position(|field| *field == sign);
                let (position, or) =
                    at("-o").map(|at| (at, true)).or(at("-a").map(|at| (at, false)))?;
                let left = self.condition(fields.get(..position)?)?;
                let right = self.condition(fields.get(position + 1..)?)?;
                Some(if or { left || right } else { left && right })
            }
        }
    }

    fn is_so_inside(&self, test: &str, path: &Path) -> bool {
        let Some(tree) = &self.state.tree else { return false };
        let is_link = matches!(test, "-L" | "-h");
        let Ok(kind) = tree.kind(path, !is_link) else { return false };
        match test {
            "-L" | "-h" => kind == Kind::Link,
            "-f" => matches!(kind, Kind::File(_)),
            "-d" => kind == Kind::Directory,
            "-s" => matches!(kind, Kind::File(size) if size > 0),
            // Repositories are read-only.
            "-w" => false,
            "-x" => kind == Kind::Directory,
            _ => true,
        }
    }
}

/// Looks at a file of the machine.
fn is_so(test: &str, path: &Path) -> bool {
    use rustix::fs::Access;
    let metadata = || std::fs::metadata(path);
    let may = |access| rustix::fs::access(path, access).is_ok();
    match test {
        "-e" => metadata().is_ok(),
        "-f" => metadata().is_ok_and(|found| found.is_file()),
        "-d" => metadata().is_ok_and(|found| found.is_dir()),
        "-s" => metadata().is_ok_and(|found| found.len() > 0),
        "-r" => may(Access::READ_OK),
        "-w" => may(Access::WRITE_OK),
        "-x" => may(Access::EXEC_OK),
        _ => std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()),
    }
}
