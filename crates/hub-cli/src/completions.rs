//! `hub completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::connect::Cx;
use crate::failure::{Failure, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hub completions bash > ~/.local/share/bash-completion/completions/hub
  hub completions zsh  > ~/.zfunc/_hub          (with ~/.zfunc in fpath)
  hub completions fish > ~/.config/fish/completions/hub.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

pub(crate) fn run(cx: &Cx, args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hub", &mut script);
    let script = String::from_utf8(script).map_err(|_| Failure::Local("the script is not UTF-8".to_owned()))?;
    cx.out.raw(&script)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_a_script() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "hub", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("whoami"), "{shell}");
        }
    }
}
