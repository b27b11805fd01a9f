//! Attention inside windows, where keys and values are not kept beyond the call.

use crate::tensor::cpu::memory::{CpuBuffer, CpuVector};
use crate::tensor::cpu::plain::{rotate, softmax};
use crate::tensor::error::require;
use crate::tensor::{AttentionShape, DeviceError, Windows};

/// See [`Convolution::window_attention`](crate::tensor::Convolution::window_attention).
pub(super) fn window_attention(
    qkv: &mut CpuBuffer,
    table: &CpuVector,
    shape: AttentionShape,
    sliding: usize,
    windows: &Windows,
    out: &mut CpuBuffer,
) -> Result<(), DeviceError> {
    const NAME: &str = "window_attention";
    let (rows, width) = (windows.stored_rows(), shape.head_dim);
    let longest = windows.iter().map(|(_, rows)| rows.end).max().unwrap_or(0);
    require(NAME, "qkv", qkv.0.len(), rows * shape.qkv_width())?;
    require(NAME, "out", out.0.len(), rows * shape.query_width())?;
    require(NAME, "table", table.0.len(), longest * width)?;
    if let Some((_, rows)) = windows.iter().find(|(_, rows)| rows.origin != 0) {
        return Err(DeviceError::Batch(format!("attention over a window that lacks rows: {rows:?}")));
    }
    for (place, rows) in windows.iter() {
        let own = &mut qkv.0[place * shape.qkv_width()..][..rows.end * shape.qkv_width()];
        for (row, angles) in own.chunks_exact_mut(shape.qkv_width()).zip(table.0.chunks_exact(width)) {
            let turned = &mut row[..shape.query_width() + shape.kv_width()];
            turned.chunks_exact_mut(width).for_each(|head| rotate(head, angles));
        }
        let out = &mut out.0[place * shape.query_width()..][..rows.end * shape.query_width()];
        for (row, out) in out.chunks_exact_mut(shape.query_width()).enumerate() {
            attend(own, shape, (row + 1).saturating_sub(sliding.max(1)), row, out);
        }
    }
    Ok(())
}

/// What all heads of one row gather from the rows `oldest..=row`.
fn attend(qkv: &[f32], shape: AttentionShape, oldest: usize, row: usize, out: &mut [f32]) {
    let width = shape.head_dim;
    let scale = (width as f32).powf(-0.5);
    let head_of = |row: usize, head: usize| &qkv[row * shape.qkv_width() + head * width..][..width];
    let mut scores = Vec::with_capacity(row + 1 - oldest);
    for (head, out) in out.chunks_exact_mut(width).enumerate() {
        let key_head = shape.heads + head / (shape.heads / shape.kv_heads);
        let query = head_of(row, head);
        scores.clear();
        scores
            .extend((oldest..=row).map(|key| {
                scale * query.iter().zip(head_of(key, key_head)).map(|(q, k)| q * k).sum::<f32>()
            }));
        softmax(&mut scores);
        out.fill(0.0);
        for (key, score) in (oldest..=row).zip(&scores) {
            for (out, value) in out.iter_mut().zip(head_of(key, key_head + shape.kv_heads)) {
                *out += score * value;
            }
        }
    }
}
