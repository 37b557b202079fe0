// Shared by the fuzz target and the replay of its corpus.

use strata_luks::{HEADER_LEN, Header, MemoryHeader, Volume};

/// Few iterations, so that a mutated count costs nothing.
const MAX_ITERATIONS: u32 = 16;

/// Does with `data` all that may be done with a hostile volume.
pub(crate) fn exercise(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<HEADER_LEN>()
        && let Ok(header) = Header::parse(bytes, MAX_ITERATIONS)
    {
        // What is accepted is kept: a second parse of what we would write gives the same.
        let again = Header::parse(&header.to_bytes(), MAX_ITERATIONS).expect("own header");
        assert_eq!(again.slots, header.slots);
        assert_eq!(again.payload_offset(), header.payload_offset());
    }
    let area = MemoryHeader::new(data.to_vec());
    if let Ok(volume) = Volume::open_within(&area, b"pass", MAX_ITERATIONS) {
        volume
            .cipher()
            .decrypt(0, &mut [0; 512])
            .expect("one sector");
    }
}
