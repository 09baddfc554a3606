package peer;

import java.util.Map;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.annotation.JsonProperty;

/** A prediction, a Flink POJO. */
@JsonIgnoreProperties(ignoreUnknown = true)
public class Prediction {
    @JsonProperty("request_id")
    public String requestId;

    @JsonProperty("at_ms")
    public long atMs;

    public String model;
    public String version;
    public String deployment;
    public double score;
    public String subject;
    public Map<String, String> slices;
    public Map<String, Double> features;
}
