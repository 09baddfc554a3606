package peer;

import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.common.eventtime.WatermarkGenerator;
import org.apache.flink.api.common.eventtime.WatermarkOutput;

/**
 * Ascending timestamps, and time goes on in silence: a partition that has been silent for longer than a second passes
 * for as much later as the wall clock has moved, less that second. Without this no timer fires when nothing comes. One
 * that has never had a record is idle after a while, so that it does not hold the others up.
 */
final class Watermarks<T> implements WatermarkGenerator<T> {
    private static final long SILENCE_MS = 1_000;
    private static final long NEVER_MS = 10_000;

    private long latestMs = Long.MIN_VALUE;
    private long heardMs = System.currentTimeMillis();

    @Override
    public void onEvent(T event, long atMs, WatermarkOutput output) {
        latestMs = Math.max(latestMs, atMs);
        heardMs = Long.MIN_VALUE;
    }

    @Override
    public void onPeriodicEmit(WatermarkOutput output) {
        long nowMs = System.currentTimeMillis();
        if (heardMs == Long.MIN_VALUE) {
            heardMs = nowMs; // the clock is asked once a period, not once a record
        }
        long silentMs = nowMs - heardMs;
        if (latestMs != Long.MIN_VALUE) {
            output.emitWatermark(new Watermark(latestMs - 1 + Math.max(0, silentMs - SILENCE_MS)));
        } else if (silentMs > NEVER_MS) {
            output.markIdle();
        }
    }
}
