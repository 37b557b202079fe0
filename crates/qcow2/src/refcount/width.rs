//! Refcounts of 1 to 64 bits in a block's bytes.

use crate::format::bytes::{get_u16, get_u32, get_u64};

/// The refcount at `index`; widths below a byte fill it from the lowest bit on.
pub(crate) fn get(order: u32, block: &[u8], index: usize) -> u64 {
    match order {
        0..=2 => {
            let per_byte = 8 >> order;
            let byte = block.get(index / per_byte).copied().unwrap_or(0);
            let shift = (index % per_byte) << order;
            u64::from(byte >> shift) & ((1 << (1 << order)) - 1)
        }
        3 => u64::from(block.get(index).copied().unwrap_or(0)),
        4 => u64::from(get_u16(block, index * 2)),
        5 => u64::from(get_u32(block, index * 4)),
        _ => get_u64(block, index * 8),
    }
}

/// Sets the refcount at `index`, which must lie in `block`, to a value that fits.
pub(crate) fn set(order: u32, block: &mut [u8], index: usize, value: u64) {
    match order {
        0..=2 => {
            let per_byte = 8 >> order;
            let shift = (index % per_byte) << order;
            let mask = (((1u16 << (1 << order)) - 1) as u8) << shift;
            let byte = &mut block[index / per_byte];
            *byte = *byte & !mask | (value as u8) << shift;
        }
        3 => block[index] = value as u8,
        4 => block[index * 2..][..2].copy_from_slice(&(value as u16).to_be_bytes()),
        5 => block[index * 4..][..4].copy_from_slice(&(value as u32).to_be_bytes()),
        _ => block[index * 8..][..8].copy_from_slice(&value.to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_stay() {
        for order in 0..=6 {
            let mut block = vec![0; 128];
            let largest = u64::MAX >> (64 - (1 << order));
            for index in 0..16 {
                set(order, &mut block, index, largest);
            }
            set(order, &mut block, 5, 0);
            for index in 0..16 {
                let expected = if index == 5 { 0 } else { largest };
                assert_eq!(
                    get(order, &block, index),
                    expected,
                    "order {order} index {index}"
                );
            }
        }
    }
}
