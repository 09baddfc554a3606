package peer;

import java.util.Map;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.annotation.JsonProperty;

/** A row of feedback, a Flink POJO. */
public class Feedback {
    @JsonProperty("request_id")
    public String requestId;

    @JsonProperty("predicted_at_ms")
    public long predictedAtMs;

    public String model;
    public String version;
    public String deployment;
    public double score;
    public String subject;
    public Map<String, String> slices;
    public Map<String, Double> features;
    public int label;

    @JsonProperty("label_kind")
    public String labelKind;

    @JsonProperty("labelled_at_ms")
    public Long labelledAtMs;

    static Feedback labelled(Prediction of, Label label) {
        Feedback made = carried(of);
        made.label = label.label;
        made.labelKind = "explicit";
        made.labelledAtMs = label.atMs;
        return made;
    }

    static Feedback negative(Prediction of) {
        Feedback made = carried(of);
        made.labelKind = "timeout";
        return made;
    }

    private static Feedback carried(Prediction of) {
        Feedback made = new Feedback();
        made.requestId = of.requestId;
        made.predictedAtMs = of.atMs;
        made.model = of.model;
        made.version = of.version;
        made.deployment = of.deployment;
        made.score = of.score;
        made.subject = of.subject;
        made.slices = of.slices;
        made.features = of.features;
        return made;
    }
}
