package peer;

import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.annotation.JsonProperty;

/** A label, a Flink POJO. */
@JsonIgnoreProperties(ignoreUnknown = true)
public class Label {
    @JsonProperty("request_id")
    public String requestId;

    @JsonProperty("at_ms")
    public long atMs;

    public int label;
    public String source;
}
