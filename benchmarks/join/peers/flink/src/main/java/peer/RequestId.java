package peer;

import java.nio.charset.StandardCharsets;
import org.apache.flink.api.common.serialization.SerializationSchema;

/** The key of a row. */
final class RequestId implements SerializationSchema<Feedback> {
    @Override
    public byte[] serialize(Feedback feedback) {
        return feedback.requestId.getBytes(StandardCharsets.UTF_8);
    }
}
