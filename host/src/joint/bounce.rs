//! Reading into memory that lies badly.
//!
//! The kernel copies pages by `rep movsb`, of which AMD's processors with a fast short form make a third of the speed, or less, where the
//! destination lies 1 to 31 bytes behind a multiple of 32 and the source at the beginning of a page (measured: 1.2 to 1.6 GB/s against
//! 3.5). Where a guest has its buffer is the guest's to say. So what would lie badly is read beside it, and copied from there.

use stagehost_ring::copy;

/// Memory to read into first.
#[derive(Debug, Default)]
pub(super) struct Bounce(Vec<u8>);

impl Bounce {
    const SIZE: usize = 64 << 10;
    /// What is shorter is not worth it.
    const WORTH: usize = 4 << 10;
    const LINE: u64 = 64;
    const ALL: usize = Self::SIZE + 64;

    /// Reads by `read` into `into` what begins at the place `from` of a source whose pages begin at multiples of themselves. May read less
    /// than there is room for.
    pub(super) fn read<E>(
        &mut self,
        into: &mut [u8],
        from: u64,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        if into.len() < Self::WORTH || Self::lies_well(into, from) {
            return read(into);
        }
        self.0.resize(Self::ALL, 0);
        let start = usize::try_from(from.wrapping_sub(Self::address(&self.0)) % Self::LINE).unwrap_or(0);
        let beside = &mut self.0[start..start + into.len().min(Self::SIZE)];
        let n = read(beside)?;
        copy(&mut into[..n], &beside[..n]);
        Ok(n)
    }

    fn address(of: &[u8]) -> u64 {
        of.as_ptr().addr() as u64
    }

    fn lies_well(into: &[u8], from: u64) -> bool {
        let behind = Self::address(into).wrapping_sub(from) % Self::LINE;
        behind == 0 || behind >= Self::LINE / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_badly_is_read_beside_and_arrives() {
        let source: Vec<u8> = (0..20_000_u32).map(|at| (at % 251) as u8).collect();
        let mut bounce = Bounce::default();
        let mut memory = vec![0; 20_000 + 64];
        let (mut beside, mut directly) = (0, 0);
        for start in 0..64 {
            for skip in [0, 1, 40, 4096] {
                let from = skip as u64;
                let into = &mut memory[start..start + 10_000];
                let (place, well) = (into.as_ptr(), Bounce::lies_well(into, from));
                let read = |to: &mut [u8]| {
                    assert_eq!(to.as_ptr() == place, well);
                    assert!(Bounce::lies_well(to, from));
                    let n = to.len().min(9_000);
                    to[..n].copy_from_slice(&source[skip..][..n]);
                    Ok::<_, ()>(n)
                };
                assert_eq!(bounce.read(into, from, read), Ok(9_000));
                assert_eq!(into[..9_000], source[skip..][..9_000]);
                *if well { &mut directly } else { &mut beside } += 1;
            }
        }
        assert!(beside > 100 && directly > 100, "{beside} {directly}");
        // What is short goes where it is to be, however it lies.
        let mut short = [0; 100];
        let place = short.as_ptr();
        let read = |to: &mut [u8]| if to.as_ptr() == place { Ok(to.len()) } else { Err(()) };
        assert_eq!(bounce.read(&mut short, 1, read), Ok(100));
    }
}
