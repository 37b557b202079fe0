//! `strata net`: the host's side of guests' networks.

mod bridge;
mod table;

pub use bridge::{BridgeCommand, run};

/// Arguments of `strata net`.
#[derive(Debug, clap::Args)]
pub struct NetArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: NetCommand,
}

/// The commands of `strata net`.
#[derive(Debug, clap::Subcommand)]
pub enum NetCommand {
    /// Make, delete and list bridges, which connect guests to the host's network
    #[command(subcommand, after_help = bridge::HELP)]
    Bridge(BridgeCommand),
}
