//! A server with one command, for a client at a time: `counter SOCKET`.
//!
//! ```sh
//! cargo run -p strata-qmp --example counter /tmp/counter &
//! echo '{"execute":"qmp_capabilities"} {"execute":"count"}' | socat - unix:/tmp/counter
//! ```

use std::os::unix::net::UnixListener;

use serde_json::json;
use strata_qmp::{Client, Commands, Error, NoArguments, Version};

fn main() -> std::io::Result<()> {
    let path = std::env::args_os().nth(1);
    let path = path.unwrap_or_else(|| "/tmp/counter".into());
    let commands = Commands::new(Version {
        number: [0, 1, 0],
        package: "counter".to_owned(),
    })
    .with("count", |count: &mut u64, _: NoArguments| {
        *count = count
            .checked_add(1)
            .ok_or_else(|| Error::generic("that is all"))?;
        Ok(json!({ "count": *count }))
    });
    let mut count = 0;
    for stream in UnixListener::bind(path)?.incoming() {
        // A stream that blocks will do for one client; an event loop has others, and looks at what
        // a client wants.
        let mut client = Client::new(stream?, &commands);
        while client.serve(&commands, &mut count).is_ok() {}
    }
    Ok(())
}
