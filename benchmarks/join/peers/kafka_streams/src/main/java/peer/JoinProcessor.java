package peer;

import java.time.Duration;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import peer.Events.Feedback;
import peer.Events.Label;
import peer.Events.Prediction;

/**
 * Joins both topics of one partition by request id.
 *
 * <p>Open predictions and labels without a prediction lie in stores by request id. A third store has their deadlines in
 * order ("0001700000000000 p REQUEST"), so that the punctuator reads only what is due, from where it last stopped.
 *
 * <p>Time is stream time. When both topics fall silent it goes on with the wall clock, a second behind.
 */
final class JoinProcessor implements Processor<String, Object, String, Feedback> {
    static final String PREDICTIONS = "open";
    static final String LABELS = "labels";
    static final String DEADLINES = "deadlines";

    private static final Duration EVERY = Duration.ofMillis(200);
    private static final long SILENCE_MS = 1_000;
    private static final int TIME_DIGITS = 16;

    private final long timeoutMs;
    private ProcessorContext<String, Feedback> context;
    private KeyValueStore<String, Prediction> predictions;
    private KeyValueStore<String, Label> labels;
    private KeyValueStore<String, String> deadlines;
    private long clockMs = Long.MIN_VALUE;
    private long heardMs;
    private long firedMs;

    JoinProcessor(long timeoutMs) {
        this.timeoutMs = timeoutMs;
    }

    @Override
    public void init(ProcessorContext<String, Feedback> context) {
        this.context = context;
        predictions = context.getStateStore(PREDICTIONS);
        labels = context.getStateStore(LABELS);
        deadlines = context.getStateStore(DEADLINES);
        context.schedule(EVERY, PunctuationType.WALL_CLOCK_TIME, this::fire);
    }

    @Override
    public void process(Record<String, Object> record) {
        clockMs = Math.max(clockMs, record.timestamp());
        heardMs = context.currentSystemTimeMs();
        if (record.value() instanceof Prediction prediction) {
            onPrediction(prediction);
        } else if (record.value() instanceof Label label) {
            onLabel(label);
        }
    }

    private void onPrediction(Prediction prediction) {
        String id = prediction.requestId;
        long deadlineMs = prediction.atMs + timeoutMs;
        Label label = labels.get(id);
        if (label != null && label.atMs <= deadlineMs) {
            labels.delete(id);
            deadlines.delete(due(label.atMs + timeoutMs, "l", id));
            emit(id, Feedback.labelled(prediction, label));
            return;
        }
        predictions.put(id, prediction);
        await(deadlineMs, "p", id);
    }

    private void onLabel(Label label) {
        String id = label.requestId;
        Prediction prediction = predictions.get(id);
        if (prediction != null && label.atMs <= prediction.atMs + timeoutMs) {
            predictions.delete(id);
            deadlines.delete(due(prediction.atMs + timeoutMs, "p", id));
            emit(id, Feedback.labelled(prediction, label));
            return;
        }
        labels.put(id, label);
        await(label.atMs + timeoutMs, "l", id);
    }

    /** Gives the negatives that are due, and forgets labels whose prediction never came (second copies, mostly). */
    private void fire(long wallMs) {
        if (clockMs == Long.MIN_VALUE) {
            clockMs = context.currentStreamTimeMs();
            heardMs = wallMs;
            return;
        }
        long nowMs = clockMs + Math.max(0, wallMs - heardMs - SILENCE_MS);
        try (KeyValueIterator<String, String> all = deadlines.range(due(firedMs, "", ""), due(nowMs, "", ""))) {
            while (all.hasNext()) {
                KeyValue<String, String> next = all.next();
                String id = next.key.substring(TIME_DIGITS + 1);
                if (next.key.charAt(TIME_DIGITS) == 'p') {
                    emit(id, Feedback.negative(predictions.delete(id)));
                } else {
                    labels.delete(id);
                }
                deadlines.delete(next.key);
            }
        }
        firedMs = nowMs;
    }

    private void await(long deadlineMs, String kind, String id) {
        deadlines.put(due(deadlineMs, kind, id), "");
        firedMs = Math.min(firedMs, deadlineMs);
    }

    private static String due(long deadlineMs, String kind, String id) {
        String digits = Long.toString(Math.max(deadlineMs, 0));
        return "0".repeat(TIME_DIGITS - digits.length()) + digits + kind + id;
    }

    private void emit(String id, Feedback feedback) {
        context.forward(new Record<>(id, feedback, context.currentStreamTimeMs()));
    }
}
