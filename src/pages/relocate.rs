//! Moving what a write transaction keeps to lower places of the file.
//!
//! Invariant: nothing moves unless all of it finds a place below the limit, and the file never grows for it; the old
//! place is given back only after the new one is written.
//! Layer 2 (pages).

use super::extent::{self, Extent, Piece};
use super::store::child_sum;
use super::writer::PageWriter;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{PageId, Run};

impl PageWriter {
    /// Hands out a run that lies wholly below `limit_units`; `None` where the free space has no such run.
    pub(crate) fn allocate_below(&self, units: u32, limit_units: u64) -> Result<Option<Run>> {
        let Some(run) = self.allocate_in_file(units)? else { return Ok(None) };
        if run.end() <= limit_units {
            return Ok(Some(run));
        }
        // The lowest place is not low enough.
        self.free(run, self.birth())?;
        Ok(None)
    }

    /// Moves an out-of-line value of which a part lies at or above `limit_units`; returns its new reference, or `None`
    /// where it stays.
    pub(crate) fn relocate_extent(&self, extent: &Extent, limit_units: u64) -> Result<Option<Extent>> {
        let layout = *self.layout();
        let head = extent
            .head_run(&layout)
            .ok_or_else(|| StorageError::corrupted_page(extent.page, "an extent list longer than a run"))?;
        let len_bytes = usize::try_from(extent.len_bytes)
            .map_err(|_| StorageError::corrupted_page(extent.page, "a value too long for this machine"))?;
        let (list, pieces) = if extent.is_list(&layout) {
            let list = self.store().extent_head(self.base(), extent)?;
            (Some(head), extent::decode_list(&list, extent.len_bytes, &layout)?)
        } else {
            (None, vec![Piece { run: head, len_bytes, sum: extent.sum }])
        };
        let runs: Vec<Run> = pieces.iter().map(|piece| piece.run).chain(list).collect();
        // What this transaction made is where it was found fit to be.
        if extent.birth == self.birth() || runs.iter().all(|run| run.end() <= limit_units) {
            return Ok(None);
        }
        let Some(places) = self.allocate_all_below(&runs, limit_units)? else { return Ok(None) };
        let mut moved = Vec::with_capacity(pieces.len());
        for (piece, place) in pieces.iter().zip(&places) {
            let bytes = self.store().piece(piece)?;
            self.write_early(&mut [(place.page, &bytes)])?;
            moved.push(Piece { run: *place, ..*piece });
        }
        let (page, sum) = self.write_head(list.is_some(), &moved, &places)?;
        self.free_extent(extent)?;
        Ok(Some(Extent { page, sum, birth: self.birth(), len_bytes: extent.len_bytes }))
    }

    /// Writes the list of the moved pieces where there is one; returns what names the whole value.
    fn write_head(&self, has_list: bool, moved: &[Piece], places: &[Run]) -> Result<(PageId, u64)> {
        match (has_list, moved, places) {
            (true, _, [.., place]) => {
                let list = extent::encode_list(moved);
                self.write_early(&mut [(place.page, &list)])?;
                Ok((place.page, child_sum(&list)))
            }
            (false, [only], _) => Ok((only.run.page, only.sum)),
            _ => unreachable!("a value is one piece or has a list"),
        }
    }

    /// A place below the limit for each run, or for none.
    fn allocate_all_below(&self, runs: &[Run], limit_units: u64) -> Result<Option<Vec<Run>>> {
        let mut places = Vec::with_capacity(runs.len());
        for run in runs {
            let Some(place) = self.allocate_below(run.units, limit_units)? else {
                places.into_iter().try_for_each(|place| self.free(place, self.birth()))?;
                return Ok(None);
            };
            places.push(place);
        }
        Ok(Some(places))
    }
}
