//! The memory of a container that a call transfers to or from: one buffer, or those of an iovec.

use crate::usermem::UserPtr;
use alloc::vec::Vec;
use pegasus_abi::socket::{IoVec, RW_COUNT_MAX, UIO_MAXIOV};
use pegasus_abi::{Errno, Result};
use pegasus_contract::layout::USER_END;

/// Pieces of container memory, and how far a transfer has come.
pub struct Segments<'a> {
    /// If not empty: bytes of the vkernel's own, in place of a container's.
    own: &'a [u8],
    pieces: Pieces,
    /// The piece in which the transfer stands, and the offset in it.
    piece: usize,
    offset: usize,
    /// Bytes from there to the end.
    left: usize,
    has_faulted: bool,
}

enum Pieces {
    One(IoVec),
    Many(Vec<IoVec>),
}

impl Pieces {
    fn get(&self, index: usize) -> Option<&IoVec> {
        match self {
            Pieces::One(piece) => (index == 0).then_some(piece),
            Pieces::Many(pieces) => pieces.get(index),
        }
    }
}

impl<'a> Segments<'a> {
    pub fn one(base: usize, len: usize) -> Segments<'a> {
        let len = len.min(RW_COUNT_MAX);
        Segments {
            own: &[],
            pieces: Pieces::One(IoVec { base, len }),
            piece: 0,
            offset: 0,
            left: len,
            has_faulted: false,
        }
    }

    /// Bytes of the vkernel's own, to be sent.
    pub fn own(bytes: &'a [u8]) -> Segments<'a> {
        Segments {
            own: bytes,
            ..Self::one(bytes.as_ptr() as usize, bytes.len())
        }
    }

    /// Copies an iovec out of the container. EINVAL, EFAULT as Linux.
    pub fn read(address: usize, count: usize) -> Result<Segments<'a>> {
        if count > UIO_MAXIOV {
            return Err(Errno::EINVAL);
        }
        if count == 1 {
            let piece: IoVec = UserPtr(address).read()?;
            if piece.len as isize >= 0 {
                return Ok(Self::one(piece.base, piece.len));
            }
            return Err(Errno::EINVAL);
        }
        let mut pieces = Vec::with_capacity(count);
        let mut left: usize = 0;
        for index in 0..count {
            let at = UserPtr(address).offset(index * size_of::<IoVec>())?;
            let mut piece: IoVec = at.read()?;
            if (piece.len as isize) < 0 {
                return Err(Errno::EINVAL);
            }
            if piece
                .base
                .checked_add(piece.len)
                .is_none_or(|end| end > USER_END)
            {
                return Err(Errno::EFAULT);
            }
            piece.len = piece.len.min(RW_COUNT_MAX - left);
            left += piece.len;
            pieces.push(piece);
        }
        Ok(Segments {
            own: &[],
            pieces: Pieces::Many(pieces),
            piece: 0,
            offset: 0,
            left,
            has_faulted: false,
        })
    }

    /// Begins again.
    pub fn restart(&mut self, total: usize) {
        self.piece = 0;
        self.offset = 0;
        self.left = total;
    }

    /// Bytes not yet transferred.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Whether a copy has met memory that is not there.
    pub fn has_faulted(&self) -> bool {
        self.has_faulted
    }

    /// The next contiguous piece of at most `len_max` bytes.
    pub fn next(&mut self, len_max: usize) -> Option<IoVec> {
        loop {
            let piece = self.pieces.get(self.piece)?;
            if self.offset < piece.len {
                return Some(IoVec {
                    base: piece.base.wrapping_add(self.offset),
                    len: (piece.len - self.offset).min(len_max),
                });
            }
            self.piece += 1;
            self.offset = 0;
        }
    }

    /// `len` bytes of the piece that [`Segments::next`] gave have been transferred.
    pub fn advance(&mut self, len: usize) {
        self.offset += len;
        self.left -= len;
    }

    /// Goes on with what is left as an iovec for Linux.
    pub fn rest(&self, len_max: usize) -> Vec<IoVec> {
        let mut rest = Vec::new();
        let mut room = len_max;
        let mut offset = self.offset;
        let mut index = self.piece;
        while let Some(piece) = self.pieces.get(index)
            && room > 0
        {
            let len = (piece.len - offset).min(room);
            if len > 0 {
                rest.push(IoVec {
                    base: piece.base.wrapping_add(offset),
                    len,
                });
            }
            room -= len;
            offset = 0;
            index += 1;
        }
        rest
    }

    /// `len` bytes of what [`Segments::rest`] gave have been transferred.
    pub fn advance_across(&mut self, mut len: usize) {
        while len > 0
            && let Some(piece) = self.next(len)
        {
            self.advance(piece.len);
            len -= piece.len;
        }
    }

    /// Fills `to` from the container's memory; no bytes at a fault.
    pub fn copy_out(&mut self, to: &mut [u8]) -> usize {
        if !self.own.is_empty() {
            to.copy_from_slice(&self.own[self.offset..self.offset + to.len()]);
            self.advance(to.len());
            return to.len();
        }
        self.copy(to.len(), |piece, done| {
            UserPtr(piece.base).read_some(&mut to[done..done + piece.len])
        })
    }

    /// Writes `from` to the container's memory; no bytes at a fault.
    pub fn copy_in(&mut self, from: &[u8]) -> usize {
        self.copy(from.len(), |piece, done| {
            UserPtr(piece.base).write_some(&from[done..done + piece.len])
        })
    }

    /// Piece by piece, each of them all or, if there is a fault on the way, not at all: as Linux copies to and from its buffers.
    fn copy(&mut self, len: usize, mut copy: impl FnMut(IoVec, usize) -> usize) -> usize {
        const PIECE_LEN: usize = 16 << 10;
        let mut done = 0;
        while done < len && !self.has_faulted {
            let end = len.min(done + PIECE_LEN);
            let before = (self.piece, self.offset, self.left);
            let mut at = done;
            while at < end
                && let Some(piece) = self.next(end - at)
            {
                let copied = copy(piece, at);
                self.advance(copied);
                at += copied;
                if copied < piece.len {
                    self.has_faulted = true;
                    (self.piece, self.offset, self.left) = before;
                    return done;
                }
            }
            if at == done {
                break;
            }
            done = at;
        }
        done
    }
}
