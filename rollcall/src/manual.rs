//! Shell completions and manual pages. Both are generated from the definition of the command line,
//! so they cannot be out of date.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;
use service::Exit;

use crate::args::Cli;
use crate::error::Error;

/// The name of the program.
const PROGRAM: &str = "rollcall";

/// The options of `rollcall completions`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rollcall completions bash > ~/.local/share/bash-completion/completions/rollcall
  rollcall completions zsh > ~/.zfunc/_rollcall        with ~/.zfunc in $fpath
  rollcall completions fish > ~/.config/fish/completions/rollcall.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// The options of `rollcall man`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rollcall man | man -l -
  rollcall man --out ~/.local/share/man/man1           then: man rollcall-run")]
pub struct ManArgs {
    /// Folder for one page per command [default: print the page of rollcall itself]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl CompletionsArgs {
    /// Prints the script.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> Result<Exit, Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::definition(), PROGRAM, &mut script);
        print(&script)
    }
}

impl ManArgs {
    /// Prints the page, or writes all of them.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self) -> Result<Exit, Error> {
        let Some(folder) = &self.out else {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::definition())
                .render(&mut page)
                .map_err(not_written("the manual page"))?;
            return print(&page);
        };
        let what = format!("manual pages to {}; choose another --out", folder.display());
        fs::create_dir_all(folder).map_err(not_written(&what))?;
        clap_mangen::generate_to(Cli::definition(), folder).map_err(not_written(&what))?;
        Ok(Exit::Complete)
    }
}

fn not_written(what: &str) -> impl FnOnce(io::Error) -> Error {
    let what = what.to_owned();
    move |source| Error::Write { what, source }
}

/// Prints bytes. A reader that closed the pipe, as `head` does, is no error.
fn print(bytes: &[u8]) -> Result<Exit, Error> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(not_written("to standard output")(error))
        }
        _ => Ok(Exit::Complete),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = ManArgs {
            out: Some(folder.path().join("man1")),
        };
        assert_eq!(args.write().expect("written"), Exit::Complete);
        for command in Cli::definition().get_subcommands() {
            let page = format!("man1/rollcall-{}.1", command.get_name());
            let text = fs::read_to_string(folder.path().join(&page));
            assert!(text.expect(&page).contains(".SH SYNOPSIS"), "{page}");
        }
        assert!(folder.path().join("man1/rollcall.1").exists());
    }

    #[test]
    fn every_shell_completes_the_options_of_run() {
        for shell in <Shell as clap::ValueEnum>::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::definition(), PROGRAM, &mut script);
            let script = String::from_utf8(script).expect("text");
            assert!(script.contains("simulate-work"), "{shell}");
        }
    }
}
