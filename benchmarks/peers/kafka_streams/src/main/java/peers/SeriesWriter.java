package peers;

import java.io.BufferedWriter;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;

/** Writes the series in the order of country and hour. */
final class SeriesWriter {
  static void write(Map<String, Tally> series, Path out) throws IOException {
    var groups = series.keySet().toArray(String[]::new);
    Arrays.parallelSort(groups);
    try (BufferedWriter writer = Files.newBufferedWriter(out, StandardCharsets.UTF_8)) {
      writer.write("country,date_hour,tests,positive,rate\n");
      var line = new StringBuilder();
      for (var group : groups) {
        var tally = series.get(group);
        int hour = group.lastIndexOf(',') + 1;
        line.setLength(0);
        line.append(quoted(group.substring(0, hour - 1)))
            .append(',')
            .append(group, hour, group.length())
            .append(":00:00,")
            .append(tally.tests())
            .append(',')
            .append(tally.positive())
            .append(',')
            .append((double) tally.positive() / tally.tests())
            .append('\n');
        writer.append(line);
      }
    }
  }

  private static String quoted(String label) {
    if (label.indexOf(',') < 0 && label.indexOf('"') < 0) {
      return label;
    }
    return '"' + label.replace("\"", "\"\"") + '"';
  }

  private SeriesWriter() {}
}
