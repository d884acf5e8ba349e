//! The two ends of a decoder: rows of the embedding, and scores for the next token.

use crate::Isa;
use crate::activation::Shaped;
use crate::block::phases::multiply;
use crate::block::{PRIVATE_ROWS, RunError};
use crate::norm::{Norm, norm};
use crate::pack::{GROUP_ROWS, Packed};
use crate::simd::{Simd, portable::Portable};
use crate::step::StepError;
use crate::team::{Threads, chunk};
use crate::workspace::{Own, Workspace};

#[cfg(target_arch = "x86_64")]
use crate::product::amx;
#[cfg(target_arch = "x86_64")]
use crate::simd::{
    avx2::Avx2,
    avx512::{Amx, Avx512Vnni},
};

#[cfg(target_arch = "aarch64")]
use crate::simd::neon::NeonDot;

/// Rows of a table of embeddings times `scale`, into `out` of `[ids, columns]`.
///
/// # Errors
/// [`RunError::Step`] for an id the table does not have, [`RunError::Size`] for a wrong `out`.
pub fn embed(table: &Packed<'_>, ids: &[i64], scale: f32, out: &mut [f32]) -> Result<(), RunError> {
    size("embeddings", ids.len() * table.columns(), out.len())?;
    for (row, (id, out)) in ids
        .iter()
        .zip(out.chunks_exact_mut(table.columns()))
        .enumerate()
    {
        let inside = usize::try_from(*id).ok().filter(|id| *id < table.rows());
        let id = inside.ok_or_else(|| StepError {
            row,
            what: "token",
            expected: format!("0..{}", table.rows()),
            found: *id,
        })?;
        table.read_row(id, scale, out);
    }
    Ok(())
}

/// Scores: `norm(x[outputs])·tableᵀ [+ bias]` into `scores` of `[outputs, table rows]`. `x` is `[rows, columns]`.
///
/// # Errors
/// [`RunError`] for a row that is not there, or a buffer of a wrong size.
pub fn head(
    (x, outputs): (&[f32], &[i32]),
    with: &Norm<'_>,
    table: &Packed<'_>,
    bias: Option<&[f32]>,
    scores: &mut [f32],
    workspace: &mut Workspace,
    threads: &dyn Threads,
) -> Result<(), RunError> {
    let hidden = table.columns();
    size("scores", outputs.len() * table.rows(), scores.len())?;
    size("norm of the head", hidden, with.weight.len())?;
    size(
        "bias of the norm of the head",
        hidden,
        with.bias.map_or(hidden, <[f32]>::len),
    )?;
    size(
        "bias of the head",
        table.rows(),
        bias.map_or(table.rows(), <[f32]>::len),
    )?;
    size(
        "width of the head, a multiple of 16",
        hidden.next_multiple_of(GROUP_ROWS),
        hidden,
    )?;
    let rows = x.len() / hidden;
    for (row, &output) in outputs.iter().enumerate() {
        if output < 0 || output as usize >= rows {
            let expected = format!("0..{rows}");
            return Err(StepError {
                row,
                what: "output",
                expected,
                found: output.into(),
            }
            .into());
        }
    }
    if outputs.is_empty() {
        return Ok(());
    }
    workspace.rows(outputs.len(), hidden, hidden);
    workspace.team.reset();
    workspace.own_for(threads.count());
    let isa = workspace.isa;
    let call = Call {
        x: x.as_ptr(),
        outputs,
        with,
        table,
        bias,
        scores: scores.as_mut_ptr(),
        threads: threads.count(),
        team: &workspace.team,
        shared: &raw mut workspace.activations,
        own: workspace.own.as_mut_ptr(),
        own_count: workspace.own.len(),
    };
    // SAFETY: `Workspace::new` was given an instruction set that this computer has; each index is used once.
    threads.run(&|index| unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => walk_avx2(&call, index),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => walk_avx512(&call, index),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => walk_amx(&call, index),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => walk_neon(&call, index),
            _ => walk::<Portable>(&call, index),
        }
    });
    Ok(())
}

fn size(what: &'static str, expected: usize, found: usize) -> Result<(), RunError> {
    if expected == found {
        return Ok(());
    }
    Err(RunError::Size {
        what,
        expected,
        found,
    })
}

struct Call<'a> {
    x: *const f32,
    outputs: &'a [i32],
    with: &'a Norm<'a>,
    table: &'a Packed<'a>,
    bias: Option<&'a [f32]>,
    scores: *mut f32,
    threads: usize,
    team: &'a crate::team::Team,
    shared: *mut crate::activation::Activations,
    own: *mut Own,
    own_count: usize,
}

// SAFETY: as `block::phases::Call`.
unsafe impl Sync for Call<'_> {}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn walk_avx2(call: &Call<'_>, index: usize) {
    // SAFETY: as the caller promises.
    unsafe { walk::<Avx2>(call, index) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn walk_avx512(call: &Call<'_>, index: usize) {
    // SAFETY: as the caller promises.
    unsafe { walk::<Avx512Vnni>(call, index) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn walk_amx(call: &Call<'_>, index: usize) {
    // SAFETY: as the caller promises; tiles are this function's alone.
    unsafe {
        let _tiles = amx::Tiles::configure();
        walk::<Amx>(call, index);
    }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
unsafe fn walk_neon(call: &Call<'_>, index: usize) {
    // SAFETY: as the caller promises.
    unsafe { walk::<NeonDot>(call, index) }
}

#[inline(always)]
unsafe fn walk<S: Simd>(call: &Call<'_>, index: usize) {
    let Call { table, team, .. } = call;
    let rows = call.outputs.len();
    assert!(index < call.own_count, "a thread beyond the count");
    // SAFETY: rows and sizes were checked; no other thread has this index.
    unsafe {
        let own = &mut *call.own.add(index);
        let bytes;
        if rows <= S::BUNCH_ROWS.min(PRIVATE_ROWS) {
            bytes = own.activations.shape::<S>(rows, table.columns());
            for row in 0..rows {
                prepare::<S>(call, own.row.as_mut_ptr(), &bytes, row);
            }
        } else {
            bytes = (*call.shared).shape::<S>(rows, table.columns());
            let tasks = team.phase(0, bytes.bunches(), 1);
            while let Some(range) = tasks.take() {
                for bunch in range.clone().map(|index| bytes.bunch(index)) {
                    for row in bunch.first..bunch.first + bunch.rows {
                        prepare::<S>(call, own.row.as_mut_ptr(), &bytes, row);
                    }
                }
                tasks.finished(&range);
            }
            tasks.wait();
        }
        let tasks = team.phase(1, table.groups(), chunk(table.groups(), 16 * call.threads));
        while let Some(range) = tasks.take() {
            for group in range.clone() {
                scores::<S>(call, group, &bytes);
            }
            tasks.finished(&range);
        }
        tasks.wait();
    }
}

#[inline(always)]
unsafe fn prepare<S: Simd>(call: &Call<'_>, to: *mut f32, bytes: &Shaped, row: usize) {
    let hidden = call.table.columns();
    // SAFETY: outputs were checked; `to` holds a row.
    unsafe {
        norm::<S>(
            call.with,
            call.x.add(call.outputs[row] as usize * hidden),
            to,
        );
        let row_of = std::slice::from_raw_parts(to, hidden);
        bytes.quantize_row::<S>(row, row_of, call.table.format().fix());
    }
}

#[inline(always)]
unsafe fn scores<S: Simd>(call: &Call<'_>, group: usize, bytes: &Shaped) {
    let (rows, stride) = (call.outputs.len(), call.table.rows());
    let at = group * GROUP_ROWS;
    // SAFETY: a whole group is stored in place; the last, shorter one by way of a buffer.
    unsafe {
        if at + GROUP_ROWS <= stride {
            multiply::<S>(
                call.table,
                group,
                bytes,
                call.bias,
                None,
                call.scores,
                stride,
            );
            return;
        }
        let mut all = vec![0.0_f32; rows * GROUP_ROWS];
        // `multiply` writes 16 outputs from `at` on: the buffer begins there.
        multiply::<S>(
            call.table,
            group,
            bytes,
            None,
            None,
            all.as_mut_ptr().wrapping_sub(at),
            GROUP_ROWS,
        );
        for row in 0..rows {
            for i in 0..stride - at {
                let bias = call.bias.map_or(0.0, |bias| bias[at + i]);
                call.scores
                    .add(row * stride + at + i)
                    .write(all[row * GROUP_ROWS + i] + bias);
            }
        }
    }
}
