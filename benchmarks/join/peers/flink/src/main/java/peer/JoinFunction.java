package peer;

import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.streaming.api.functions.co.KeyedCoProcessFunction;
import org.apache.flink.util.Collector;

/** Keeps what came first of a request, prediction or label, until the other comes or its timer fires. */
final class JoinFunction extends KeyedCoProcessFunction<String, Prediction, Label, Feedback> {
    private final long timeoutMs;
    private transient ValueState<Prediction> open;
    private transient ValueState<Label> waiting;

    JoinFunction(long timeoutMs) {
        this.timeoutMs = timeoutMs;
    }

    @Override
    public void open(OpenContext context) {
        open = getRuntimeContext().getState(new ValueStateDescriptor<>("open", Prediction.class));
        waiting = getRuntimeContext().getState(new ValueStateDescriptor<>("waiting", Label.class));
    }

    @Override
    public void processElement1(Prediction prediction, Context context, Collector<Feedback> out) throws Exception {
        long deadlineMs = prediction.atMs + timeoutMs;
        Label label = waiting.value();
        if (label != null && label.atMs <= deadlineMs) {
            waiting.clear();
            context.timerService().deleteEventTimeTimer(label.atMs + timeoutMs);
            out.collect(Feedback.labelled(prediction, label));
            return;
        }
        open.update(prediction);
        context.timerService().registerEventTimeTimer(deadlineMs);
    }

    @Override
    public void processElement2(Label label, Context context, Collector<Feedback> out) throws Exception {
        Prediction prediction = open.value();
        if (prediction != null && label.atMs <= prediction.atMs + timeoutMs) {
            open.clear();
            context.timerService().deleteEventTimeTimer(prediction.atMs + timeoutMs);
            out.collect(Feedback.labelled(prediction, label));
            return;
        }
        waiting.update(label);
        context.timerService().registerEventTimeTimer(label.atMs + timeoutMs);
    }

    /** The prediction's time is over, or a label (mostly a second copy) has waited for its prediction long enough. */
    @Override
    public void onTimer(long timestampMs, OnTimerContext context, Collector<Feedback> out) throws Exception {
        Prediction prediction = open.value();
        if (prediction != null && prediction.atMs + timeoutMs <= timestampMs) {
            open.clear();
            out.collect(Feedback.negative(prediction));
        }
        Label label = waiting.value();
        if (label != null && label.atMs + timeoutMs <= timestampMs) {
            waiting.clear();
        }
    }
}
